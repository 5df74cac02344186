@0xe1f0a3b4c5d60041;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bad");

struct Keyword $Cxx.name("class") {}
struct First $Cxx.name("Second") {}
struct Second {}
struct Fields {
  a @0 :Text $Cxx.name("b");
  b @1 :Text;
  c @2 :Text $Cxx.name("not one");
  class @3 :Text;
}
enum Status {
  ok @0;
  eof @1;
  nan @2 $Cxx.name("null");
  seekSet @3;
  other @4 $Cxx.name("ok");
}
struct Ends {
  union {
    eof @0 :Void;
    null @1 :Text;
  }
  nan @2 :Text;
}
const infinity :Int32 = 1;
interface Parameters {
  one @0 (a :Text $Cxx.name("A b"), class :Text) -> (a :Text, b :Text $Cxx.name("a"));
}
