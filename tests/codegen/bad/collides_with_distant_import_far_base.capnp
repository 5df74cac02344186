@0xe1f0a3b4c5d60032;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bad");

interface Distant {}
