@0xe1f0a3b4c5d60008;

using Mi7 = import "/mi7/annotations.capnp";

interface Watcher {
  watch @0 (prefix :Text) -> (key :Text) $Mi7.streaming(server);
  get @1 (key :Text) -> (value :Data);
}
