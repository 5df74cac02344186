# Shared by the tests of the generator. Sourced with the paths that the BUILD file passes:
#   capnp capnpc-mi7 capnpc-mi7-mock c++.capnp annotations.capnp
set -u
runfiles=$TEST_SRCDIR/$TEST_WORKSPACE
capnp=$runfiles/$1
plugin=$runfiles/$2
mock_plugin=$runfiles/$3
standard=$(dirname "$(dirname "$runfiles/$4")") # the folder that holds capnp/
schemas=$runfiles/tests/codegen

mkdir -p "$TEST_TMPDIR/import/mi7"
cp -L "$runfiles/$5" "$TEST_TMPDIR/import/mi7/annotations.capnp"
imports=(--no-standard-import "-I$standard" "-I$TEST_TMPDIR/import")

failed=0
fail() {
  echo "FAILED: $*"
  failed=1
}

# run COMMAND...: sets status, and leaves what it printed in $TEST_TMPDIR/out and .../err.
run() {
  "$@" >"$TEST_TMPDIR/out" 2>"$TEST_TMPDIR/err"
  status=$?
}

# expect_status N WHAT
expect_status() {
  [[ $status == "$1" ]] || fail "$2: exit status $status, expected $1: $(cat "$TEST_TMPDIR/err")"
}

# expect_error TEXT WHAT: standard error holds the text.
expect_error() {
  grep -qF -- "$1" "$TEST_TMPDIR/err" ||
    fail "$2: standard error lacks '$1': $(cat "$TEST_TMPDIR/err")"
}

# expect_no_files FOLDER WHAT
expect_no_files() {
  [[ -z $(find "$1" -type f) ]] || fail "$2: files were left: $(find "$1" -type f)"
}

finish() {
  ((failed)) && exit 1
  echo "$1"
}
