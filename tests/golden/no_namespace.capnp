@0xd1f0a3b4c5d60008;

using Mi7 = import "/mi7/annotations.capnp";
using import "scopes.capnp".First;

interface GoldenGlobal {
  # Has no namespace, and uses files of other packages.
  go @0 (mode :Mi7.Streaming, options :First.Options) -> (void :GoldenVoid);
}

interface GoldenGlobalBase(T) {
  go @0 (t :T) -> GoldenVoid;
}

struct GoldenVoid {}
