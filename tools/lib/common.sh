# shellcheck shell=sh
# Shared by the scripts in tools/. Source it with `set -eu` on; it changes into the root of the tree.

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root" || exit

# Everything that the scripts keep between two runs, ignored by git and by Bazel. Delete it freely.
cache=${MI7_CACHE:-$root/.cache}

say() { printf '%s\n' "$*"; }
heading() { printf '\n== %s\n' "$*"; }
fail() {
  printf '%s: %s\n' "tools/${0##*/}" "$*" >&2
  exit 1
}

# Prints the comment that opens the script, which is its help.
print_help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# Bazel with an output base of these scripts below $cache: `main`, or another one that is built with
# another compiler. MI7_BAZEL_FLAGS, when set, names other startup options.
# Descriptor 9 is the lock of exclusively(), which must not outlive the script in Bazel's server.
bazel_base=main
run_bazel() {
  if [ -n "${MI7_BAZEL_FLAGS:-}" ]; then
    # A list of words.
    # shellcheck disable=SC2086
    bazel $MI7_BAZEL_FLAGS "$@" 9>&-
  else
    bazel --output_user_root="$cache/bazel" --output_base="$cache/bazel/$bazel_base" \
      --max_idle_secs=900 "$@" 9>&-
  fi
}

# Takes the lock of this tree's output folder, so that two runs in one tree follow one another, and
# arranges that the Bazel servers that the script starts end with it. A script that another one of
# these runs as a step is under that one's lock (MI7_LOCK_HELD).
exclusively() {
  mkdir -p "$cache"
  if [ "${MI7_LOCK_HELD:-}" != "$cache/lock" ]; then
    exec 9>"$cache/lock"
    if ! flock -n 9; then
      say "Waiting for another run in this tree to finish."
      flock 9
    fi
  fi
  servers_before=$(live_servers)
  trap 'end_servers' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
}

# The output bases below $cache that have a Bazel server running. Starts none.
live_servers() {
  for file in "$cache"/bazel/*/server/server.pid.txt; do
    [ -f "$file" ] || continue
    base=${file%/server/server.pid.txt}
    # The process may be gone and its id be another one's.
    if tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$file")/cmdline" | grep -q -F -- "--output_base=$base "; then
      printf '%s\n' "$base"
    fi
  done
}

end_servers() {
  for base in $(live_servers); do
    case "
$servers_before
" in
      *"
$base
"*) ;;
      *) bazel --output_user_root="$cache/bazel" --output_base="$base" shutdown >/dev/null 2>&1 9>&- || : ;;
    esac
  done
}
