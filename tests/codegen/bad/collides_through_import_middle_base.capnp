@0xe1f0a3b4c5d60045;

using Cxx = import "/capnp/c++.capnp";
using Far = import "collides_through_import_far_base.capnp";
$Cxx.namespace("bad");

struct Middle {
  a @0 :Far.Plain;
}
struct Other {
  a @0 :Text;
}
