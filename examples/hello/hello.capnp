@0xb3f2a9d14c5e6871;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("hello");

interface Greeter {
  greet @0 (name :Text) -> (greeting :Text);
}
