@0xe1f0a3b4c5d60001;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bad");

interface Observer {
  notify @0 (text :Text) -> ();
}

interface Subject {
  # "subscribe @0 (observer :Observer)" in a comment is not the declaration.
  publish @0 (text :Text) -> ();

  subscribe @1 (name :Text,
                observer :Observer) -> ();
}
