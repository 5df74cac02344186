@0xe1f0a3b4c5d60040;
# What an import is called in other languages, or in another way, is no name of its in C++.

using Cxx = import "/capnp/c++.capnp";
using Middle = import "other_languages_middle_base.capnp";
$Cxx.namespace("good");

struct Point {
  nested @0 :Middle.Point3;
  far @1 :Middle.Far;
}
struct Far {}
struct Unused {}
struct Constant {}
interface Service extends(Middle.Base) {
  call @0 Point -> Point;
}
interface UnusedService {}
