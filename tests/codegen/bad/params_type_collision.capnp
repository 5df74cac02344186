@0xe1f0a3b4c5d6000c;

interface Names {
  add @0 (a :Int32) -> (b :Int32);
  struct AddResults {}
}
