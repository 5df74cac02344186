@0xd7e2a4b90c51f836;
# A room in which people talk.

using Cxx = import "/capnp/c++.capnp";
using Mi7 = import "/mi7/annotations.capnp";
$Cxx.namespace("chat");

const nameBytesMax :UInt32 = 32;
const textBytesMax :UInt32 = 2000;

interface Room {
  join @0 ToRoom -> FromRoom $Mi7.streaming(bidirectional);
  # To be in the room for as long as the stream lasts. The first message is a name, all others are
  # what one says, which everybody else gets. INVALID_ARGUMENT for anything else, for a name that is
  # empty, longer than nameBytesMax or not of letters, digits, "-" and "_", and for a text that is
  # longer than textBytesMax. ALREADY_EXISTS: somebody in the room has that name.
  # RESOURCE_EXHAUSTED: the room is full. UNAVAILABLE: the room closes.

  who @1 () -> (names :List(Text));
  # Who is in the room, in the order of the names.
}

struct ToRoom {
  union {
    name @0 :Text;
    text @1 :Text;
  }
}

struct FromRoom {
  union {
    welcome @0 :List(Text);
    # The first message: who else is there.
    joined @1 :Text;
    left @2 :Text;
    said :group {
      name @3 :Text;
      text @4 :Text;
    }
    missed @5 :UInt32;
    # So many messages were not sent to you, who read too slowly.
  }
}
