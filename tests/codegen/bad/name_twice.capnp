@0xe1f0a3b4c5d6000b;

using Cxx = import "/capnp/c++.capnp";

interface Names {
  add @0 (a :Int32) -> ();
  plus @1 (b :Int32) -> () $Cxx.name("add");
}
