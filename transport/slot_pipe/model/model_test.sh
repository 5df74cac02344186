#!/bin/bash
# Checks the model exhaustively, in the configurations that fit into a test: every interleaving of the
# processes, with a death possible at every step. MI7_LONG=1 adds larger ones, for which some
# gigabytes and minutes are needed. Then a seeded fault, which the checking has to find.
set -eu
model=$PWD/transport/slot_pipe/model/slot_pipe.pml
cd "$TEST_TMPDIR"
states=0

# check DEFINES...: runs the checker; sets `errors` and `found`.
check() {
  rm -f pan*
  spin -a "$@" "$model" >/dev/null
  gcc -O2 -DSAFETY -DCOLLAPSE -DNOFAIR -DMEMLIM="${memory:-2000}" -o pan pan.c
  ./pan -m100000 >out 2>&1
  if grep -Eq 'max search depth too small|memory limit|out of memory' out; then cat out; exit 1; fi
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' out)
  found=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
  found=$(printf '%.0f' "$found")  # 1.2e+08
}

clean() {
  check "$@"
  printf '%s: %s states, %s errors\n' "$*" "$found" "$errors"
  [ "$errors" = 0 ] || { cat out; exit 1; }
  states=$((states + found))
}

clean -DNPROD=1 -DNCONS=1 -DNREC=1 -DRETURNS
clean -DNPROD=1 -DNCONS=1 -DNREC=2 -DRETURNS
if [ -n "${MI7_LONG:-}" ]; then
  memory=16000
  clean -DNPROD=2 -DNCONS=1 -DNREC=1
  clean -DNPROD=2 -DNCONS=1 -DNREC=1 -DMAXC=1 -DRETURNS
fi

# A sweep that does not look into the ring takes a sent message for one that was not.
sed 's/c\[j\].fl \&\& c\[j\].ix==i \&\& c\[j\].g==wg) -> fnd=1/false) -> fnd=1/' "$model" >mutant.pml
! cmp -s "$model" mutant.pml || { echo "the fault was not put in"; exit 1; }
model=$TEST_TMPDIR/mutant.pml
check -DNPROD=1 -DNCONS=1 -DNREC=1
[ "$errors" != 0 ] || { echo "the seeded fault was not found"; exit 1; }
echo "a sweep without the ring scan: found"

echo "RELIABILITY: $states states of the model, no errors; a seeded fault is found"
least=8000000
[ -z "${MI7_LONG:-}" ] || least=130000000
[ "$states" -ge "$least" ] || { echo "$least states were wanted"; exit 1; }
