@0xd1f0a3b4c5d60013;
# Methods whose messages are streams.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("golden::streaming");

struct Line {
  text @0 :Text;
}

interface Log {
  # Lines of text.

  follow @0 (prefix :Text) -> Line $Mi7.streaming(server);
  # Those that begin so, as they come.

  append @1 Line -> (count :UInt64) $Mi7.streaming(client) $Mi7.timeout(60000);
  grep @2 (line :Text) -> (number :UInt64, matches :List(Text)) $Mi7.streaming(bidirectional);
  size @3 () -> (lines :UInt64);
}

interface Files extends(Log) {
  # Inherits streams, and has a method with a name of the runtime's.

  openBidiStream @0 ();
  aMethodWithAVeryLongNameAsSomeOrganizationsHaveThem @1 () -> () $Mi7.streaming(bidirectional);
}

interface Sink {
  write @0 (part :Data) -> stream;
  # A part.

  done @1 () -> (bytes :UInt64);
}

interface NamedSink extends(Sink) {
  # Inherits a method that returns a stream.

  finishStream @0 ();
}

interface Queue(T) {
  take @0 (count :UInt32) -> (item :T) $Mi7.streaming(server);
  exchange @1 (item :T) -> (item :T) $Mi7.streaming(bidirectional);
}

interface Lines extends(Queue(Line)) {
  put @0 Line -> () $Mi7.streaming(client);
}
