@0xe1f0a3b4c5d60047;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bad::DeepStub");

struct Plain {}
