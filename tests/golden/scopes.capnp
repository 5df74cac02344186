@0xd1f0a3b4c5d60002;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::scopes");

interface First {
  one @0 (options :Options) -> ();

  struct Options {
    verbose @0 :Bool;
    interface Observer {
      # Three scopes deep.
      notify @0 (options :Options) -> ();
    }
  }

  interface Nested {
    # In an interface.
    two @0 (options :Options) -> First.Options;
    struct Options {
      level @0 :Int32;
    }
  }
}

interface Second {
  # Uses types of another interface's scope.
  three @0 First.Nested.Options -> (options :First.Options);
}

interface Empty {}

struct Holder {
  interface Empty extends(First.Nested) {}
}
