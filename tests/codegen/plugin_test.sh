#!/bin/bash
# The plugins as programs: options, broken requests, what is written where, and that it is always
# the same.
source "$TEST_SRCDIR/$TEST_WORKSPACE/tests/codegen/test_lib.sh"
golden=$runfiles/tests/golden
out=$TEST_TMPDIR/work
compile() { run "$capnp" compile "${imports[@]}" "-I$runfiles" "$@"; }
fresh() { rm -rf "$out" && mkdir -p "$out" && cd "$out" || exit 1; }

# --- By hand ---
run "$plugin" --version
expect_status 0 --version
grep -qE '^capnpc-mi7 [0-9]+\.[0-9]+\.[0-9]+$' "$TEST_TMPDIR/out" || fail "--version"
run "$mock_plugin" --version
grep -qE '^capnpc-mi7-mock [0-9]' "$TEST_TMPDIR/out" || fail "--version of the mock plugin"
run "$plugin" --help
expect_status 0 --help
grep -qF 'capnp compile -oc++ -omi7 x.capnp' "$TEST_TMPDIR/out" || fail "--help"
run "$plugin" calculator.capnp
expect_status 1 "an argument"
expect_error "unknown argument 'calculator.capnp'" "an argument"

# --- By its name, which the compiler looks up on the PATH ---
fresh
mkdir -p "$TEST_TMPDIR/bin"
ln -s "$plugin" "$TEST_TMPDIR/bin/capnpc-mi7"
ln -s "$mock_plugin" "$TEST_TMPDIR/bin/capnpc-mi7-mock"
PATH=$TEST_TMPDIR/bin:$PATH compile -omi7 -omi7-mock "--src-prefix=$golden" "$golden/extends.capnp"
expect_status 0 "-omi7"
files=$(find . -type f | LC_ALL=C sort | tr '\n' ' ')
[[ $files == "./extends.mi7.cc ./extends.mi7.h ./extends.mi7.mock.h " ]] || fail "-omi7: $files"

# --- Broken requests: a message, exit status 1, no file ---
# broken WHAT TEXT: with $request
request=$TEST_TMPDIR/request
broken() {
  fresh
  run "$plugin" <"$request"
  expect_status 1 "$1"
  expect_error "capnpc-mi7: the request on standard input cannot be used: " "$1"
  expect_error "$2" "$1"
  expect_no_files "$out" "$1"
}
from_text() {
  "$capnp" convert text:binary --no-standard-import "-I$standard" \
    "$standard/capnp/schema.capnp" CodeGeneratorRequest >"$request"
}
fresh
compile -o- "$golden/extends.capnp"
expect_status 0 "a request to change"
good=$TEST_TMPDIR/good
cp "$TEST_TMPDIR/out" "$good"
size=$(stat -c %s "$good")

: >"$request"
broken "nothing" "standard input is empty"
head -c $((size - 4)) "$good" >"$request"
broken "half a word missing" "it is cut off"
head -c $((size / 2 / 8 * 8)) "$good" >"$request"
broken "half missing" "ends prematurely"
printf 'Hello, world, is it me you are looking for?     ' >"$request"
broken "text" "Message"
head -c 4096 /dev/zero | tr '\0' '\377' >"$request"
broken "ones" "Message"
from_text <<<'(requestedFiles = [(id = 0x9000000000000001, filename = "x.capnp")])'
broken "a file without its node" "9000000000000001"
from_text <<<'(nodes = [
  (id = 0x9000000000000001, displayName = "x.capnp", file = void,
   nestedNodes = [(name = "Loop", id = 0x9000000000000002)]),
  (id = 0x9000000000000002, scopeId = 0x9000000000000001, displayName = "x.capnp:Loop",
   displayNamePrefixLength = 8,
   interface = (methods = [], superclasses = [(id = 0x9000000000000002)]))],
  requestedFiles = [(id = 0x9000000000000001, filename = "x.capnp")])'
broken "an interface that extends itself" "extends itself"
from_text <<<'(nodes = [
  (id = 0x9000000000000001, displayName = "x.capnp", file = void,
   nestedNodes = [(name = "Lost", id = 0x9000000000000002)]),
  (id = 0x9000000000000002, scopeId = 0x9000000000000001, displayName = "x.capnp:Lost",
   interface = (methods = [(name = "m", paramStructType = 3, resultStructType = 3)]))],
  requestedFiles = [(id = 0x9000000000000001, filename = "x.capnp")])'
broken "a method without its types" "lacks"

# Any byte changed: never a crash.
for seed in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
  fresh
  RANDOM=$seed
  cp "$good" "$TEST_TMPDIR/changed"
  for _ in 1 2 3 4 5 6 7 8; do
    printf "\\x$(printf %02x $((RANDOM % 256)))" | dd of="$TEST_TMPDIR/changed" bs=1 conv=notrunc \
      seek=$(((RANDOM * 32768 + RANDOM) % size)) status=none
  done
  run "$plugin" <"$TEST_TMPDIR/changed"
  ((status <= 1)) || fail "seed $seed: exit status $status: $(cat "$TEST_TMPDIR/err")"
done

# --- What is written ---
fresh
compile "-o$plugin:$out" "--src-prefix=$runfiles" "$golden/extends.capnp"
expect_status 0 "a good schema"
files=$(find . -type f | LC_ALL=C sort | tr '\n' ' ')
[[ $files == "./tests/golden/extends.mi7.cc ./tests/golden/extends.mi7.h " ]] ||
  fail "only the requested file's output, in its folder: $files"
compile "-o$mock_plugin:$out" "--src-prefix=$golden" "$golden/extends.capnp"
[[ -f extends.mi7.mock.h ]] || fail "the prefix is left out of the output's path"

# One bad schema among good ones: nothing, and what was there stays.
fresh
echo old >extends.mi7.h
compile "-o$plugin:$out" "--src-prefix=$golden" "--src-prefix=$schemas/bad" \
  "$golden/extends.capnp" "$schemas/bad/stream.capnp"
expect_status 1 "a bad schema among good ones"
[[ $(cat extends.mi7.h) == old && $(find . -type f) == ./extends.mi7.h ]] ||
  fail "a failed run must change nothing: $(find . -type f)"

# A file that cannot be written: nothing of the others either.
fresh
mkdir -p extends.mi7.h/is_a_folder
compile "-o$plugin:$out" "--src-prefix=$golden" "$golden/scopes.capnp" "$golden/extends.capnp"
expect_status 1 "an output that cannot be written"
expect_error "extends.mi7.h" "an output that cannot be written"
expect_no_files "$out" "an output that cannot be written"

# --- Line numbers: wherever the compiler was told to look; none where nothing tells ---
fresh
cd "$TEST_TMPDIR" || exit 1
run "$capnp" compile "${imports[@]}" "-o$plugin:$out" "--src-prefix=$schemas/bad" \
  "$schemas/bad/stream.capnp"
expect_error "stream.capnp:4: error: method Upload.write" "the line with --src-prefix"
run "$capnp" compile "${imports[@]}" -o- "--src-prefix=$schemas/bad" "$schemas/bad/stream.capnp"
cp "$TEST_TMPDIR/out" "$request"
run "$plugin" <"$request"
expect_error "stream.capnp: error: method Upload.write" "no line without the text"
MI7_SCHEMA_PATH=nowhere:$schemas/bad run "$plugin" <"$request"
expect_error "stream.capnp:4: error: method Upload.write" "the line with MI7_SCHEMA_PATH"

# --- The same output always: alone or with others, in any folder, locale, time and environment ---
all=("$golden"/*.capnp "$golden/base/base.capnp")
fresh
compile "-o$plugin:$out" "-o$mock_plugin:$out" "--src-prefix=$runfiles" "${all[@]}"
expect_status 0 "all golden schemas at once"
cp -r "$out" "$TEST_TMPDIR/first"
mkdir -p "$TEST_TMPDIR/second" && cd "$TEST_TMPDIR/second" || exit 1
for ((i = ${#all[@]} - 1; i >= 0; --i)); do
  LC_ALL=C TZ=Asia/Tokyo HOME=/nonexistent MALLOC_PERTURB_=$((i + 1)) run "$capnp" compile \
    "${imports[@]}" "-I$runfiles" "-o$plugin" "-o$mock_plugin" "--src-prefix=$runfiles" "${all[i]}"
  expect_status 0 "${all[i]} alone"
done
diff -r "$TEST_TMPDIR/first" "$TEST_TMPDIR/second" || fail "the output is not always the same"
(($(find "$TEST_TMPDIR/second" -type f | wc -l) > 30)) || fail "too few files to compare"

finish "the plugins behave"
