@0xbd16c2f0937ea845;
# What is called in the simulation. A call's number travels in its metadata.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("mi7::sim");

struct Number {
  number @0 :UInt64;
  data @1 :Data;
}

struct Task {
  amount @0 :UInt64;
  data @1 :Data;
}

struct Done {
  run @0 :UInt64;
  # Which of all runs this is.
}

interface Sim {
  run @0 Task -> Done;

  numbers @1 (count :UInt64) -> Number $Mi7.streaming(server);
  # From 0 on.

  gather @2 Number -> (count :UInt64) $Mi7.streaming(client);
  # How many came.

  chat @3 Number -> Number $Mi7.streaming(bidirectional);
  # What comes goes back.

  reserve @4 Task -> Done $Mi7.retryable;

  lookUp @5 Task -> Done $Mi7.idempotent;

  withdraw @6 Task -> Done $Mi7.deduplicate;

  order @7 Task -> Done $Mi7.retryable $Mi7.deduplicate;
}

interface Sink {
  write @0 Number -> stream;
}
