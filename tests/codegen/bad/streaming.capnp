@0xe1f0a3b4c5d60008;

using Mi7 = import "/mi7/annotations.capnp";

interface Item {}

interface Watcher {
  watch @0 (prefix :Text) -> (key :Text) $Mi7.streaming(server) $Mi7.idempotent;
  upload @1 (part :Data) -> () $Mi7.streaming(client) $Mi7.deduplicate;
  items @2 () -> (item :Item) $Mi7.streaming(bidirectional);
  sink @3 (part :Data) -> stream $Mi7.streaming(client);
  pour @4 (part :Data) -> stream $Mi7.idempotent;
}
