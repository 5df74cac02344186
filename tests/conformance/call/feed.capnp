@0xc8d3f0a1b2e45967;
# A service of streams for the conformance suite. Each test says what it does.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("mi7::conformance");

struct Item {
  # A message of all its streams.

  number @0 :UInt64;
  data @1 :Data;
}

interface Feed {
  watch @0 (count :UInt64, bytes :UInt32) -> Item $Mi7.streaming(server);

  upload @1 Item -> (count :UInt64, bytes :UInt64) $Mi7.streaming(client);

  chat @2 Item -> Item $Mi7.streaming(bidirectional);

  ask @3 (number :UInt64) -> (number :UInt64);
  # Unary; answers with the number.

  pour @4 Item -> stream;

  remaining @5 () -> Item $Mi7.streaming(server) $Mi7.timeout(100000);
  # One item, whose number is the time in ms that the caller has left; 0: endless.

  drip @6 Item -> stream $Mi7.timeout(100000);
  # As pour.
}
