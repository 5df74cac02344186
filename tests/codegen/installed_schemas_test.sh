#!/bin/bash
# Every schema that Cap'n Proto installs is accepted, alone and all together. Further arguments: their
# names, as the BUILD file has them, which compiles what is generated.
source "$TEST_SRCDIR/$TEST_WORKSPACE/tests/codegen/test_lib.sh"

mapfile -t all < <(find -L "$standard/capnp" -name '*.capnp' | LC_ALL=C sort)
for schema in "${all[@]}"; do
  name=${schema#"$standard/capnp/"}
  echo "${name%.capnp}"
done | LC_ALL=C sort >"$TEST_TMPDIR/found"
printf '%s\n' "${@:6}" | LC_ALL=C sort >"$TEST_TMPDIR/known"
diff "$TEST_TMPDIR/known" "$TEST_TMPDIR/found" ||
  fail "Cap'n Proto installs other schemas than tests/codegen/BUILD lists and compiles"
for set in "${all[@]}" "${all[*]}"; do
  rm -rf "$TEST_TMPDIR/out_files" && mkdir "$TEST_TMPDIR/out_files"
  # shellcheck disable=SC2086  # the last set is all of them
  run "$capnp" compile "${imports[@]}" "-o$plugin:$TEST_TMPDIR/out_files" \
    "-o$mock_plugin:$TEST_TMPDIR/out_files" "--src-prefix=$standard" $set
  expect_status 0 "$set"
  for schema in $set; do
    stem=${schema#"$standard/"}
    stem=$TEST_TMPDIR/out_files/${stem%.capnp}
    [[ -s $stem.mi7.h && -s $stem.mi7.cc && -s $stem.mi7.mock.h ]] || fail "no output for $schema"
  done
done
finish "${#all[@]} installed schemas were accepted"
