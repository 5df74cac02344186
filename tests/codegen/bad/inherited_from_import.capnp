@0xe1f0a3b4c5d60009;

using Stream = import "stream.capnp";

interface Resumable extends(Stream.Upload) {
  offset @0 () -> (offset :UInt64);
}
