@0xd1f0a3b4c5d60003;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::base");

interface Root {
  # At the top of the diamond.
  id @0 () -> (id :Text);
  # Who answers.
}

interface Named extends(Root) {
  name @0 () -> (name :Text);
  close @1 ();
}

struct Box(T) {
  content @0 :T;
}

interface Container(T) {
  put @0 (item :T) -> (box :Box(T));
  # Puts one item into a box.
}
