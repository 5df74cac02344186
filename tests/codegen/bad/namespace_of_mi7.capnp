@0xe1f0a3b4c5d60043;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mi7");

interface Channel {}
