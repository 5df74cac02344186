@0xb7c1d0a4e6f25a93;

# The calls of the bench. Every typed subject serves this schema, or one that says the same.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";

$Cxx.namespace("mi7::bench");

interface Echo {
  # Answers with what it was given.
  echo @0 (value :UInt64) -> (value :UInt64);

  load @1 (data :Data, read :Bool) -> (sum :UInt64);
  # Answers with the sum of the 8-byte words of `data`, which it reads when `read` says so, else 0.

  reflect @2 (data :Data) -> (data :Data);
  # Answers with the bytes it was given.
}

interface Sink {
  # Takes messages and keeps a tally of them (stream_tally.h), and gives some.

  struct Tally {
    messages @0 :UInt64;
    digest @1 :UInt64;
  }

  upload @0 (data :Data) -> Tally $Mi7.streaming(client);
  # The tally is of this stream's messages.

  pour @1 (data :Data) -> stream;
  drain @2 () -> Tally;
  # Of what was poured since the last time.

  download @3 (bytes :UInt32) -> (data :Data) $Mi7.streaming(server);
  # Messages of so many bytes, as a peer would echo them (echo_bytes.h), until the caller cancels.

  chat @4 (data :Data) -> (data :Data) $Mi7.streaming(bidirectional);
  # Sends each message back.
}
