@0xd1f0a3b4c5d6000a;

using Cxx = import "/capnp/c++.capnp";
using Base = import "base/base.capnp";
using Generics = import "generics.capnp";
$Cxx.namespace("golden::generics");

interface Items extends(Generics.Store(Text, Generics.Item)) {
  # Binds both parameters.
  first @0 () -> Generics.Pair(Text, Generics.Item);
}

interface Anything extends(Generics.Store) {
  # Binds none.
}

interface Cached(Value) extends(Generics.Store(Text, Value),
                                Base.Container(Generics.Pair(Value, Generics.Item))) {
  # Binds one, and passes its own on.
  evict @0 (value :Value) -> ();
}
