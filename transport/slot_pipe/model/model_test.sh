#!/bin/bash
# Checks the model exhaustively, in the configurations that fit into a test: every interleaving of the
# processes, with a death possible at every step. MI7_LONG=1 adds larger ones, for which some
# gigabytes and minutes are needed. Then seeded faults, which the checking has to find.
set -eu
model=$PWD/transport/slot_pipe/model/slot_pipe.pml
cd "$TEST_TMPDIR"
states=0

# Of most of them the checker would take longer to be optimized than to run, and has room for states as
# they are.
optimized=-O0
packed=

# check DEFINES...: runs the checker; sets `errors` and `stored`.
check() {
  rm -f pan*
  spin -a "$@" "$model" >/dev/null
  gcc "$optimized" -DSAFETY ${packed:+"$packed"} -DNOFAIR -DMEMLIM="${memory:-2000}" -o pan pan.c
  ./pan -m100000 >out 2>&1
  if grep -Eq 'max search depth too small|memory limit|out of memory' out; then cat out; exit 1; fi
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' out)
  stored=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
  stored=$(printf '%.0f' "$stored")  # 1.2e+08
}

clean() {
  check "$@"
  printf '%s: %s states, %s errors\n' "$*" "$stored" "$errors"
  [ "$errors" = 0 ] || { cat out; exit 1; }
  states=$((states + stored))
}

clean -DNPROD=1 -DNCONS=1 -DNREC=1 -DRETURNS
optimized=-O1 packed=-DCOLLAPSE
clean -DNPROD=1 -DNCONS=1 -DNREC=2
optimized=-O0 packed=
# Two fetches at the same time: of two messages; of one that the other has returned; with a death.
clean -DNPROD=2 -DNCONS=2 -DNREC=0 -DMAXC=0
clean -DNPROD=2 -DNCONS=2 -DNREC=0 -DMAXC=0 -DRETURNS -DFETCHES=1
clean -DNPROD=1 -DNCONS=2 -DNREC=1 -DMAXC=1 -DFETCHES=1
if [ -n "${MI7_LONG:-}" ]; then
  memory=16000 optimized=-O2 packed=-DCOLLAPSE
  clean -DNPROD=1 -DNCONS=1 -DNREC=2 -DRETURNS
  clean -DNPROD=2 -DNCONS=1 -DNREC=1
  clean -DNPROD=2 -DNCONS=1 -DNREC=1 -DMAXC=1 -DRETURNS
  clean -DNPROD=2 -DNCONS=2 -DNREC=0 -DMAXC=1 -DFETCHES=1
  clean -DNPROD=1 -DNCONS=2 -DNREC=1 -DMAXC=2 -DFETCHES=1
  clean -DNPROD=1 -DNCONS=2 -DNREC=1 -DMAXC=1 -DFETCHES=1 -DRETURNS
fi

# found WHAT OLD NEW DEFINES...: the fault NEW instead of OLD is found.
found() {
  local what=$1 sound=$model errors
  sed "s/$2/$3/" "$sound" >mutant.pml
  ! cmp -s "$sound" mutant.pml || { echo "the fault was not put in: $what"; exit 1; }
  model=$TEST_TMPDIR/mutant.pml
  shift 3
  check "$@"
  model=$sound
  [ "$errors" != 0 ] || { echo "the seeded fault was not found: $what"; exit 1; }
  echo "$what: found"
}

# It takes a sent message for one that was not.
found "a sweep without the ring scan" \
  'c\[j\].fl \&\& c\[j\].ix==i \&\& c\[j\].g==wg) -> fnd=1' 'false) -> fnd=1' \
  -DNPROD=1 -DNCONS=1 -DNREC=1
# Two consumers get the same message. With one of them nothing goes wrong.
found "a fetch without the compare-and-swap" \
  's\[ci\].st==ws \&\& s\[ci\].ow==wo \&\& s\[ci\].g==wg) -> s\[ci\].st=READING' \
  'true) -> s[ci].st=READING' \
  -DNPROD=2 -DNCONS=2 -DNREC=0 -DMAXC=0

echo "RELIABILITY: $states states of the model, no errors; two seeded faults are found"
least=20000000
[ -z "${MI7_LONG:-}" ] || least=190000000
[ "$states" -ge "$least" ] || { echo "$least states were wanted"; exit 1; }
