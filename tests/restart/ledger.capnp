@0xb5f1c6a37d9e2480;
# What the servers of the rolling restart test do, each way a handler can answer. Every call has a
# number of its own, which the handler writes into the ledger.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("mi7::restart");

interface Ledger {
  inline @0 (number :UInt64) -> (number :UInt64);
  # Answers at once.

  late @1 (number :UInt64) -> (number :UInt64);
  # Answers a little later, from another thread.

  list @2 (number :UInt64, count :UInt32) -> (number :UInt64) $Mi7.streaming(server);
  # Sends as many messages.

  sum @3 (number :UInt64) -> (sum :UInt64) $Mi7.streaming(client);
  # The first message's number is the call's.
}
