@0xe1f0a3b4c5d60005;

interface Callback {}

interface Store(T) {
  put @0 (item :T) -> ();
}

interface Texts extends(Store(Text)) {}

interface Callbacks extends(Store(Callback)) {}
