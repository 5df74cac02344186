@0xd1f0a3b4c5d60012;
# How methods may be called.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("golden::annotations");

interface Directory {
  lookUp @0 (name :Text) -> (address :Text) $Mi7.timeout(500) $Mi7.idempotent;
  # Asks only.

  order @1 (item :Text) -> (number :UInt64) $Mi7.deduplicate $Mi7.priority(control);
  # Must not happen twice.

  reserve @2 () $Mi7.retryable $Mi7.timeout(2147483647) $Mi7.deduplicate;
  plain @3 () $Mi7.priority(normal);
}

interface Extended extends(Directory) {
  # Another table of Directory's methods says the same.
}
