@0xe1f0a3b4c5d6000d;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("good::class");

interface Names {
  add @0 () $Cxx.name("add-up");
  sub @1 () $Cxx.name("sub__two");
  interface Inner $Cxx.name("2nd") {}
}
