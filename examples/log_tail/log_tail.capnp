@0xa3d9b6f4c1e07528;
# Files that others append to, as they grow.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("log_tail");

const lastLinesMax :UInt32 = 100000;

interface LogTail {
  list @0 () -> (logs :List(Log));
  # The logs of this server, in the order of their names.

  tail @1 (name :Text, lastLines :UInt32, follow :Bool) -> Piece $Mi7.streaming(server);
  # The last so many lines of a log (a line that is not finished counts), up to lastLinesMax, else
  # INVALID_ARGUMENT; then, with "follow", what is appended, until the caller has enough of it. A
  # caller that reads slowly is behind, and misses nothing but what is truncated away before it comes
  # to it. NOT_FOUND: no log of that name. RESOURCE_EXHAUSTED: too many callers at a time.
  # UNAVAILABLE: the server stops.
}

struct Log {
  name @0 :Text;
  size @1 :UInt64;
  # Bytes; 0 also while there is no such file.
}

struct Piece {
  data @0 :Data;
  offset @1 :UInt64;
  # Of the first byte in the file.
  restarted @2 :Bool;
  # The file was truncated or is another one now, and is read from its start.
}
