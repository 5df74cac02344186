@0xe1f0a3b4c5d6000a;

interface Store(T) {
  put @0 (item :T) -> ();
}
interface Texts extends(Store(Text)) {}
interface Mixed extends(Texts, Store(Data)) {}
