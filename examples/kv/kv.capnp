@0xe9c0d15b7a3f2846;
# A store of keys and values, in which every change has a number.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("kv");

const keyBytesMax :UInt32 = 512;
const valueBytesMax :UInt32 = 1048576;
const entriesMax :UInt32 = 1000;
# Of one page of a list.

interface Store {
  # Keys are text of 1 to keyBytesMax bytes, values have up to valueBytesMax: INVALID_ARGUMENT
  # otherwise. RESOURCE_EXHAUSTED: the store is full, or, with advice when to come again, too much waits for the
  # disk: nothing was done then, which is why changes are retryable.

  get @0 (key :Text) -> (value :Data, revision :UInt64) $Mi7.idempotent;
  # NOT_FOUND: there is no such key.

  put @1 (key :Text, value :Data, condition :Condition) -> (revision :UInt64)
      $Mi7.deduplicate $Mi7.retryable;
  # ABORTED: the condition does not hold; the message says what does.

  remove @2 (key :Text, condition :Condition) -> (revision :UInt64)
      $Mi7.deduplicate $Mi7.retryable;
  # NOT_FOUND: there is no such key. ABORTED as put.

  list @3 (prefix :Text, after :Text, limit :UInt32) -> (entries :List(Entry), more :Bool)
      $Mi7.idempotent;
  # Entries whose keys begin with the prefix, in the byte order of the keys: those after the key
  # "after" (empty: from the first on), at most "limit" (0 or above entriesMax: entriesMax), and not
  # more than fit into a message. With "more", there are further ones.

  watch @4 (prefix :Text, after :UInt64) -> Change $Mi7.streaming(server);
  # What has changed since the revision "after" (0: everything there is), and then every change as it
  # is made, in the order of the revisions. Of a key that changes faster than the caller reads it gets
  # the last change only. To go on after the stream was lost, pass the last revision that came.
  # OUT_OF_RANGE: that is so long ago that removals since then are forgotten; begin again from 0.
  # UNAVAILABLE: the server stops.
}

struct Condition {
  union {
    none @0 :Void;
    revision @1 :UInt64;
    # The key has this revision; 0: there is no such key.
  }
}

struct Entry {
  key @0 :Text;
  value @1 :Data;
  revision @2 :UInt64;
  # The number of the change that made it so.
}

struct Change {
  revision @0 :UInt64;
  key @1 :Text;
  union {
    value @2 :Data;
    removed @3 :Void;
  }
}
