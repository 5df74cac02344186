@0xe1f0a3b4c5d60042;

annotation namespace @0xe1f0a3b4c5d60043 (file) :Text;
annotation name @0xe1f0a3b4c5d60044 (struct, interface, enum) :Text;
using Cxx = import "/capnp/c++.capnp";
