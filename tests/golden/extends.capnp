@0xd1f0a3b4c5d60004;

using Cxx = import "/capnp/c++.capnp";
using Base = import "/tests/golden/base/base.capnp";
$Cxx.namespace("golden::extends");

interface Sized extends(Base.Root) {
  size @0 () -> (size :UInt64);
  close @1 (flush :Bool) -> ();
  reset @2 ();
}

interface File extends(Base.Named, Sized) {
  # A diamond: Root comes through both. Both have a close(), and reset() is its own.
  reset @0 (hard :Bool) -> ();
  # Hides Sized.reset.
}

interface Texts extends(Base.Container(Text)) {}

interface Files extends(File, Texts) {
  # Inherits through two files and two levels.
  count @0 () -> (count :UInt32);
}
