@0xb5f1c6a37d9e2480;
# What the servers of the rolling restart test do, each way a handler can answer. Every call has a
# number of its own, which the handler writes into the ledger.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("mi7::restart");

struct Entry {
  number @0 :UInt64;
  attempt @1 :UInt32;
  # Of a server's: which one at the stream it is that runs.
}

struct Done {
  number @0 :UInt64;
  attempt @1 :UInt32;
  # Which one at the call it was that ran.
  server @2 :Int32;
  # The process that has answered.
}

interface Ledger {
  inline @0 Entry -> Done;
  # Answers at once.

  late @1 Entry -> Done;
  # Answers a little later, from another thread.

  list @2 (number :UInt64, count :UInt32) -> Entry $Mi7.streaming(server);
  # Sends as many messages.

  sum @3 Entry -> (sum :UInt64) $Mi7.streaming(client);
  # The first message's number is the call's.

  chat @4 Entry -> Entry $Mi7.streaming(bidirectional);
  # What comes goes back. The first message's number is the call's.

  note @5 Entry -> stream;

  large @6 (number :UInt64, data :Data) -> Done $Mi7.retryable;
  # Answers a little later.

  once @7 Entry -> Done $Mi7.deduplicate;
  # Answers a little later.

  hold @8 Entry -> Done;
  # Answers once the server's input has ended, which thus goes on shutting down until then.

  bulk @9 (number :UInt64, data :Data) -> Done;
  # Answers a little later. Its request is kept without a copy.
}
