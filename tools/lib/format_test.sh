#!/bin/bash
# tools/format --check works wherever the tree comes from: a clone, one that belongs to somebody else
# (as a container sees what is mounted into it), and an archive without git, wherever it is unpacked.
set -u
cd "$TEST_SRCDIR/$TEST_WORKSPACE" || exit 1
if ! command -v clang-format >/dev/null || ! command -v git >/dev/null; then
  echo "NOTICE: clang-format or git is not installed, so tools/format was not tested"
  exit 0
fi
tree=$TEST_TMPDIR/tree
mkdir -p "$tree/tools/lib" "$tree/code/expected"
cp -L tools/format "$tree/tools"
cp -L tools/lib/common.sh "$tree/tools/lib"
cp -L .clang-format "$tree"
export HOME=$TEST_TMPDIR GIT_CONFIG_NOSYSTEM=1
cd "$tree" || exit 1
echo 'int good();' >code/good.h
echo 'int   untouched();' >code/expected/x.h

failed=0
# expect WHAT STATUS TEXT: of tools/format --check
expect() {
  output=$(tools/format --check 2>&1)
  status=$?
  if [ $status != "$2" ] || ! grep -q -F -- "$3" <<<"$output"; then
    echo "FAILED: $1: exit status $status, and it said: $output"
    failed=1
  fi
}

own_git() { env -u GIT_TEST_ASSUME_DIFFERENT_OWNER git "$@"; }

both() {
  expect "$1" 0 "1 files are formatted"
  echo 'int   bad();' >code/bad.h
  [ ! -d .git ] || own_git add code/bad.h
  expect "$1" 1 "  code/bad.h"
  tools/format code/bad.h >/dev/null
  expect "$1" 0 "2 files are formatted"
  [ ! -d .git ] || own_git rm -q --cached -f code/bad.h
  rm code/bad.h
}

both "an archive"
git init -q "$TEST_TMPDIR" || exit 1
both "an archive inside a repository of something else"
git init -q . && git add . || exit 1
both "a clone"
# git's own way to test how it treats what belongs to somebody else.
export GIT_TEST_ASSUME_DIFFERENT_OWNER=1
if git status >/dev/null 2>&1; then
  echo "NOTICE: this git does not mind whose the tree is, so that was not tested"
else
  both "a clone that belongs to somebody else"
fi
exit $failed
