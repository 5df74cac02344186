@0xd1f0a3b4c5d60001;
# Everything that a message can hold.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::messages");

const defaultLimit :UInt32 = 100;

enum Color {
  # Of a car.
  red @0;
  green @1;
  blue @2;
}

struct Person {
  name @0 :Text;
  age @1 :UInt8;
  address :group {
    street @2 :Text;
    city @3 :Text;
  }
  union {
    email @4 :Text;
    phone :group {
      country @5 :UInt16;
      number @6 :UInt64;
    }
  }
  photo @7 :Data;
  friends @8 :List(Person);
  extra @9 :AnyPointer;
  matrix @10 :List(List(Float64));
  colors @11 :List(Color);
}

const nobody :Person = (name = "nobody", age = 0);

interface Directory {
  # A directory of persons.
  #
  # Ask it for persons, and tell it of new ones.

  find @0 (name :Text, limit :UInt32 = 100) -> (persons :List(Person), truncated :Bool);
  # Finds persons by name.
  #
  #   * The name may hold wildcards.
  #   * No match is no error.

  add @1 Person -> (id :UInt64);
  # Takes a whole struct instead of a list of parameters.

  update @2 Person -> Person;

  paint @3 (color :Color, cars :List(Text), raw :Data, any :AnyPointer, struct :AnyStruct,
            list :AnyList, void :Void) -> ();
  ping @4 ();

  struct Stats {
    count @0 :UInt64;
    const unit :Text = "persons";
  }
  stats @5 () -> Stats;
}
