@0xe1f0a3b4c5d60044;

using Cxx = import "/capnp/c++.capnp";
using Middle = import "collides_through_import_middle_base.capnp";
$Cxx.namespace("bad");

# Nothing here uses anything of the file that the imported one imports.
interface Foo {
  call @0 (a :Middle.Other) -> ();
}
struct BarStub {
  a @0 :Text;
}
struct Plain {
  a @0 :Text;
}
interface Deep {}
interface Deeper {
  interface Renamed {}
}
