@0xde531ce713f36622;
# A calculator: the smallest service that shows every way to make a call and to answer one.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("calculator");

interface Calculator {
  add @0 (a :Int64, b :Int64) -> (sum :Int64);
  # a + b. OUT_OF_RANGE when the sum does not fit into 64 bits.

  divide @1 (dividend :Int64, divisor :Int64) -> (quotient :Int64, remainder :Int64);
  # Rounds towards zero, so the remainder has the sign of the dividend. INVALID_ARGUMENT, with a
  # DivisionProblem as its detail, when the divisor is 0; OUT_OF_RANGE for -2^63 / -1.

  factorize @2 (number :UInt64) -> (factors :List(UInt64));
  # The prime factors of the number, smallest first, each as often as it divides the number: none
  # for 1. INVALID_ARGUMENT for 0. Takes seconds when the second largest factor is large, and ends
  # early when the caller gives up.

  average @3 (numbers :List(Int64)) -> (average :Int64, remainder :Int64);
  # The sum of the numbers divided by how many they are, found by calling add and divide. It fails
  # as these fail: for no numbers at all, that is a division by 0.
}

struct DivisionProblem {
  # What was to be divided by 0.
  dividend @0 :Int64;
}
