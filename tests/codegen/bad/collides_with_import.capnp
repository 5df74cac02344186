@0xe1f0a3b4c5d6000e;

using Cxx = import "/capnp/c++.capnp";
using Parameter = import "collides_with_import_base.capnp";
$Cxx.namespace("bad");

struct BaseService {
  text @0 :Text;
}
interface Derived extends(Parameter.Base) {}
