@0xe1f0a3b4c5d60042;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("bad");

struct Readers(Reader, Good) {
  a @0 :Reader;
  struct Inner(Good) {
    b @0 :Good;
  }
}
struct Box(T) {
  struct T {}
  group :group {
    a @0 :Text;
  }
}
interface Callers(Calls, AddParams) {
  add @0 (a :Text) -> ();
  typed @1 [Calls] (a :Calls) -> ();
}
interface Builders(Builder) {
  add @0 (a :Builder) -> ();
}
interface Keywords(class) {}
struct Itself(Itself) {}
