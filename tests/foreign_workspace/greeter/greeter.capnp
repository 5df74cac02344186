@0xb1f1f7b6d6d1a2c3;

using Cxx = import "/capnp/c++.capnp";
using Names = import "/names/person.capnp";
$Cxx.namespace("greeter");

interface Greeter {
  greet @0 (person :Names.Person) -> (greeting :Text);
}
