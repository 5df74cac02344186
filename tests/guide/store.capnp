@0xc4a7e1f05d9b3862;
# The schema that README.md shows for streams.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("store");

using Mi7 = import "/mi7/annotations.capnp";

interface Store {
  watch @0 (prefix :Text) -> (key :Text, value :Data) $Mi7.streaming(server);
  load @1 (key :Text, value :Data) -> (count :UInt64) $Mi7.streaming(client);
  chat @2 (text :Text) -> (text :Text) $Mi7.streaming(bidirectional);
}
