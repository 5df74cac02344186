@0xd1f0a3b4c5d60005;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::generics");

struct Pair(First, Second) {
  first @0 :First;
  second @1 :Second;
  swapped @2 :Pair(Second, First);
}

struct Item {
  name @0 :Text;
}

interface Store(Key, Value) {
  # Type parameters of an interface are parameters of its classes' templates.

  get @0 (key :Key) -> (value :Value);
  # Inherits the brand of its scope.

  getEntry @1 Entry -> Entry;
  all @2 Pair(Key, Value) -> Pair(Text, List(Item));
  swap @3 (pair :Pair(Key, Value)) -> (pair :Pair(Value, Key));
  plain @4 (pair :Pair) -> Pair;
  # No brand at all.

  convert @5 [To] (key :Key, like :To) -> (result :To);

  struct Entry {
    key @0 :Key;
    value @1 :Value;
  }

  interface Cursor(Position) {
    next @0 (position :Position) -> Entry;
  }
}

struct Scope(T) {
  interface Inner {
    # Not generic itself, but in a generic scope.
    take @0 (value :T) -> Scope(Text);
    give @1 Scope(T) -> Scope(T);
  }
}

enum Color { red @0; green @1; }
struct Phantom(T) {
  text @0 :Text;
}
interface Brands {
  # Bound to all kinds of types.
  lists @0 Pair(List(Color), List(Int32)) -> Pair(List(Data), List(List(Item)));
  pointers @1 Pair(Text, Data) -> Pair(AnyPointer, Pair(Text, Pair(Data, Item)));
  phantom @2 Phantom(Brands) -> Phantom(Pair);
  # An interface as an argument that no field uses.
}
