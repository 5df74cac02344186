@0xd1f0a3b4c5d6000b;
# Names that collide with each other.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::collisions");

struct CollideService {}
struct CollideStub {}
struct MockCollideService {}
struct CollideService2 $Cxx.name("CollideService_") {}
interface Collide {
  call @0 (a :CollideService, b :CollideStub) -> MockCollideService;
}

interface Outer {
  interface Inner {}
}
interface OuterInner $Cxx.name("Outer_Inner") {
  renamed @0 () $Cxx.name("otherName");
  snake @1 (value :Renamed) -> Renamed $Cxx.name("snake_case");
}
struct Renamed $Cxx.name("NewName") {
  field @0 :Text $Cxx.name("newField");
}

struct Service {}
struct Stub {}
struct Dispatch {}
interface Shadows(Get, Service) {
  # Types that the names of methods, of type parameters or of the runtime would hide.
  shadows @0 (a :Shadowed) -> (b :Dispatch);
  get @1 (key :Get) -> (value :Service);
  struct Shadowed {
    a @0 :Get;
  }
}
interface ServiceUser {
  service @0 Service -> Stub;
  renamed @1 Renamed -> Dispatch;
}

interface One { same @0 (); both @1 (); }
interface Two { same @0 (); both @1 (); sameOne @2 () $Cxx.name("Same_One"); }
interface Both extends(One, Two) {
  both @0 ();
}
