@0xd1f0a3b4c5d60007;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::nointerface");

const answer :Int32 = 42;

struct Message {
  text @0 :Text;
}
