@0xd04e7b1f2a9c6385;

# What of a method's options can only be said in a schema (call_features_benchmark.cc).

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";

$Cxx.namespace("mi7::bench");

interface Once {
  echo @0 (value :UInt64) -> (value :UInt64) $Mi7.deduplicate;
}
