@0xe1f0a3b4c5d60003;

interface Door {}

struct House {
  rooms @0 :List(Room);
  neighbour @1 :House;
}

struct Room {
  house @0 :House;
  walls :group {
    union {
      none @1 :Void;
      door @2 :Door;
    }
  }
}

interface Town {
  build @0 (name :Text, houses :List(List(House))) -> ();
  paint @1 Room -> House;
}
