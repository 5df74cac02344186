@0xe2f7a3c19b5d8460;
# Services for the conformance suite of calls.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("mi7::conformance");

struct Detail {
  # A typed detail of a status.

  what @0 :Text;
  number @1 :Int64;
}

interface Named {
  # What both services of the suite extend.

  name @0 () -> (name :Text);
}

interface Probe extends(Named) {
  # Each test says what it does.

  echo @0 (text :Text, data :Data) -> (text :Text, data :Data);

  hold @1 (number :UInt32) -> (number :UInt32);

  unheard @2 ();
  # Never implemented.

  remaining @3 () -> (ms :Int64) $Mi7.timeout(100000);
  # What is left of the caller's time; -1: it has no end.

  again @4 (text :Text) -> (attempt :UInt32) $Mi7.idempotent;
  # Answers as the test says.

  once @5 (text :Text, data :Data) -> (text :Text, data :Data, run :UInt32) $Mi7.deduplicate;
  # As the test says.

  health @6 () -> (held :UInt32) $Mi7.priority(control);
  # How many calls of hold are held.
}

interface Counter extends(Named) {
  next @0 () -> (value :UInt64);

  nextRetryable @1 () -> (value :UInt64) $Mi7.retryable;
  # As the test says.
}

interface ProbeOfTheFuture extends(Named) {
  # No server of the suite has it.

  peek @0 () -> (name :Text);
}
