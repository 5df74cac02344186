@0xe1f0a3b4c5d60004;

interface Callback {}

struct Box(T) {
  content @0 :T;
  smaller @1 :Box(Box(T));
}

struct Unused(T) {
  text @0 :Text;
}

interface Boxes {
  fine @0 (box :Box(Text), unused :Unused(Callback)) -> ();
  broken @1 (box :Box(Unused(Text)), other :Box(Callback)) -> ();
}
