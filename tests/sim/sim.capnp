@0xbd16c2f0937ea845;
# What is called in the simulation. A call's number travels in its metadata.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("mi7::sim");

struct Number {
  number @0 :UInt64;
  data @1 :Data;
}

interface Sim {
  run @0 () -> ();

  numbers @1 (count :UInt64) -> Number $Mi7.streaming(server);
  # From 0 on.

  gather @2 Number -> (count :UInt64) $Mi7.streaming(client);
  # How many came.

  chat @3 Number -> Number $Mi7.streaming(bidirectional);
  # What comes goes back.
}
