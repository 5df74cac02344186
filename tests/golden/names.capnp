@0xd1f0a3b4c5d60006;
# Names that C++, capnpc-c++, the runtime and the generator itself have other plans with.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::names");

interface Keywords {
  delete @0 (new :Int32, class :Text, int :Bool) -> (template :Text, operator :Data);
  return @1 (this :Keywords2) -> ();
  struct Keywords2 {
    union {
      auto @0 :Void;
      while @1 :Text;
    }
    virtual :group {
      friend @2 :Text;
    }
  }
  coAwait @2 ();
}

interface Runtime {
  # Methods named as members of the classes they end up in.
  dispatch @0 ();
  newRequest @1 ();
  service @2 ();
  stub @3 ();
  info @4 ();
  interfaceInfo @5 ();
  runtimeService @6 ();
  runtimeStub @7 ();
  runtime @8 (context :Text, params :Text, results :Text, call :Text, options :Text) -> ();
  channel @9 ();
  reply @10 ();
  request @11 ();
  client @12 ();
  server @13 ();
}

interface Macros {
  nULL @0 ();
  eOF @1 ();
  t1 @2 ();
  errno @3 ();
}
