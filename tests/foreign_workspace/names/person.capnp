@0xcf4d1c6d1b3d2e57;

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("names");

struct Person {
  given @0 :Text;
  family @1 :Text;
  preferred @2 :Mi7.Streaming;
  # Only to use a type of mi7's own schemas.
}
