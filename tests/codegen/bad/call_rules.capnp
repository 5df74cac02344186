@0xe1f0a3b4c5d60011;

using Mi7 = import "/mi7/annotations.capnp";

interface Rules {
  sound @0 () $Mi7.timeout(2147483647) $Mi7.idempotent;
  alsoSound @1 () $Mi7.timeout(1) $Mi7.retryable $Mi7.deduplicate;
  noTime @2 () $Mi7.timeout(0);
  tooLong @3 ()
      $Mi7.timeout(2147483648);
  twice @4 () $Mi7.idempotent $Mi7.retryable;
  contradiction @5 () $Mi7.deduplicate $Mi7.idempotent;
}
