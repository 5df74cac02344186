@0xe1f0a3b4c5d60010;

interface Several {
  a @0 (self :Several) -> stream;
  b @1 () -> (self :Several);
}
