@0xe1f0a3b4c5d60040;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bad");

interface Client {
  call @0 ();
}
interface Server {
  struct Server {}
  enum Client { a @0; }
  internalUnimplemented @0 ();
}
struct Reader {
  builder :group {
    text @0 :Text;
  }
  struct Pipeline {}
}
struct Which {
  union {
    which :group {
      a @0 :Text;
    }
    b @1 :Text;
  }
}
struct Same {
  struct Foo {}
  foo :group {
    same @0 :Text;
  }
  const same :Int32 = 1;
  enum Same { a @0; }
}
struct Fine {
  # Only unions have a Which, only interfaces a Client.
  struct Which {}
  struct Client {}
  struct Server {}
  which @0 :Which;
  reader @1 :Text;
  const builder :Int32 = 1;
}
