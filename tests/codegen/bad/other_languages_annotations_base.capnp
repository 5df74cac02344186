@0xe1f0a3b4c5d60053;

annotation namespace @0xe1f0a3b4c5d60054 (file) :Text;
annotation name @0xe1f0a3b4c5d60055 (struct, interface, enum) :Text;
using Cxx = import "/capnp/c++.capnp";
