@0xb7c1d0a4e6f25a93;

# The calls of the bench. Every typed subject serves this schema, or one that says the same.

using Cxx = import "/capnp/c++.capnp";

$Cxx.namespace("mi7::bench");

interface Echo {
  # Answers with what it was given.
  echo @0 (value :UInt64) -> (value :UInt64);

  load @1 (data :Data, read :Bool) -> (sum :UInt64);
  # Answers with the sum of the 8-byte words of `data`, which it reads when `read` says so, else 0.

  reflect @2 (data :Data) -> (data :Data);
  # Answers with the bytes it was given.
}
