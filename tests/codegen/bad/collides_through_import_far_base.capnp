@0xe1f0a3b4c5d60046;

using Cxx = import "/capnp/c++.capnp";
using Farther = import "collides_through_import_farther_base.capnp";
$Cxx.namespace("bad");

struct FooService {
  a @0 :Text;
}
interface Bar {}
struct Plain {}
struct Renamed $Cxx.name("Deeper_RenamedStub") {}
