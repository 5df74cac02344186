@0xe1f0a3b4c5d6000f;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bad");

interface Base {}
