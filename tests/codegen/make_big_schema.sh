#!/bin/bash
# Prints a schema of more than 2,000 lines: structs, enums and interfaces that refer to each other,
# with names of all lengths. Always the same.
set -eu
RANDOM=1

words=(Get Set Find List Order Item Customer Invoice Shipment Ware House Price Of The And Very Long
  Name Update Remove Archive Batch Key Value Status)
# Sets `name` to one of $1 words and an end that makes it unique. Not in a subshell, where RANDOM
# would begin anew.
make_name() {
  local w
  name=
  for ((w = 0; w < $1; ++w)); do name+=${words[RANDOM % ${#words[@]}]}; done
  name+=$2
}

echo '@0xf1f0a3b4c5d60001;'
echo 'using Cxx = import "/capnp/c++.capnp";'
echo '$Cxx.namespace("big");'

structs=()
for ((s = 0; s < 90; ++s)); do
  make_name $((RANDOM % 4 + 1)) "S$s"
  struct=$name
  echo
  echo "struct $struct {"
  echo "  # Struct number $s."
  echo "  enum Kind { first @0; second @1; third @2; }"
  echo "  kind @0 :Kind;"
  echo "  text @1 :Text = \"text $s\";"
  echo "  union {"
  echo "    none @2 :Void;"
  echo "    number @3 :Int64;"
  echo "    data @4 :Data;"
  echo "  }"
  echo "  children @5 :List($struct);"
  if ((s > 0)); then echo "  other @6 :${structs[RANDOM % s]};"; fi
  echo "}"
  structs+=("$struct")
done

interfaces=()
for ((i = 0; i < 60; ++i)); do
  make_name $((RANDOM % 3 + 1)) "I$i"
  interface=$name
  extends=
  if ((i % 4 == 3)); then extends=" extends(${interfaces[i - 1]}, ${interfaces[i - 2]})"; fi
  echo
  echo "interface $interface$extends {"
  echo "  # Interface number $i, whose comment is long enough to be broken into several lines by the generator, which it is."
  for ((m = 0; m < 5; ++m)); do
    make_name $((RANDOM % 4 + 1)) "M$m"
    method=$name
    parameters=()
    for ((p = RANDOM % 4; p > 0; --p)); do
      parameters+=("parameter$p :${structs[RANDOM % ${#structs[@]}]}")
    done
    list=$(printf ', %s' "${parameters[@]+"${parameters[@]}"}")
    list=${list#, }
    ((${#parameters[@]} == 0)) && list=
    if ((m % 3 == 2)); then
      echo "  ${method,} @$m ${structs[RANDOM % ${#structs[@]}]} -> ${structs[RANDOM % ${#structs[@]}]};"
    else
      echo "  ${method,} @$m ($list) -> (count :UInt32);"
    fi
    echo "  # Method number $m."
  done
  echo "}"
  interfaces+=("$interface")
done

echo
echo "interface Last extends(${interfaces[59]}, ${interfaces[55]}) {"
echo "  # What the test asks for by name."
echo "  last @0 ();"
echo "}"
