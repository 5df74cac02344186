@0xe1f0a3b4c5d60006;

interface Pass {
  pass @0 (any :AnyPointer, cap :Capability) -> ();
}
