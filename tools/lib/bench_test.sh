#!/bin/bash
# tools/bench says what is wrong before it builds anything, hands its options on, and packs all that
# a run needs. Bazel and the bench are stood in for.
set -u
tools_bench=$TEST_SRCDIR/$TEST_WORKSPACE/tools/bench
work=$TEST_TMPDIR/work
mkdir -p "$work/path" "$work/bin/bench/harness" "$work/bin/bench/subjects"
cat >"$work/path/bazel" <<EOS
#!/bin/sh
case \$1 in
  build) echo "\$*" >>$work/built ;;
  info) echo $work/bin ;;
esac
EOS
printf '#!/bin/sh\necho "bench: $*"\n' >"$work/bin/bench/harness/bench"
cp -L /bin/bash "$work/bin/bench/subjects/subject"
cp "$work/bin/bench/harness/bench" "$work/bin/bench/subjects/counting_test"
echo data >"$work/bin/bench/subjects/libsubject.a"
chmod +x "$work/path/bazel" "$work/bin/bench/harness/bench" "$work"/bin/bench/subjects/*t
export PATH=$work/path:$PATH
cd "$work" || exit 1

failed=0
fail() {
  echo "FAILED: $*"
  failed=1
}
# expect WHAT STATUS TEXT ARGUMENT...: of tools/bench
expect() {
  local what=$1 status=$2 text=$3 output seen
  shift 3
  output=$("$tools_bench" "$@" 2>&1)
  seen=$?
  [ $seen = "$status" ] && grep -q -F -e "$text" <<<"$output" ||
    fail "$what: exit status $seen, and it said: $output"
}

expect "help" 0 "tools/bench --quick" --help
expect "short help" 0 "tools/bench --compare A B" -h
expect "an unknown option" 2 "unknown option '--nonsense'" --quick --nonsense
expect "an option that is not whole" 2 "unknown option '--only'" --only
expect "packing into nowhere" 2 "unknown option '--pack='" --pack=
expect "packing over what is there" 2 "not there yet" "--pack=$work/path"
expect "packing and measuring" 2 "nothing else" --pack=away --quick
[ ! -e built ] || fail "something was built for what is wrong: $(cat built)"

expect "a run" 0 " --quick --only=T1,raw --json=here.json" --quick --only=T1,raw --json=here.json
grep -q -e ' -c opt ' built || fail "not built to be fast: $(cat built)"
expect "where generated code is" 0 ":$work/bin --quick" --quick

expect "packing" 0 "away/bench takes the same options" --pack=away
[ "$(cd away && echo *) $(cd away/subjects && echo *)" = "bench harness lib subjects subject" ] ||
  fail "packed: $(find away)"
ls away/lib/libtinfo.so.* >/dev/null || fail "its libraries are missing: $(ls away/lib)"
[ ! -e away/lib/libc.so.6 ] || fail "the C library was packed, too"
mv away elsewhere
[ "$(elsewhere/bench --only=L9)" = "bench: --programs=$work/elsewhere/subjects --only=L9" ] ||
  fail "what was packed: $(elsewhere/bench --only=L9)"
exit $failed
