@0x93dfe1b4e2a398f9;
# What a service says about trying again, as a detail of a status. In C++: rpc/retry_info.h.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mi7::schema");

struct RetryInfo {
  # The call failed, and nothing was done. Attached to a status, it tells the caller's channel when to
  # repeat a call of a method that is $Mi7.retryable or $Mi7.idempotent.

  union {
    afterUs @0 :UInt64;
    # Not before so many microseconds have passed; 0: at once.

    never @1 :Void;
    # Trying again is of no use.
  }
}
