@0xe1f0a3b4c5d60030;

using Cxx = import "/capnp/c++.capnp";
using Middle = import "collides_with_distant_import_middle_base.capnp";
$Cxx.namespace("bad");

struct DistantStub {
  text @0 :Text;
}
interface Derived extends(Middle.Near) {}
