@0xe1f0a3b4c5d60002;

struct Scope {
  interface Factory {
    interface Product {}
    make @0 () -> (product :Product);
  }
}
