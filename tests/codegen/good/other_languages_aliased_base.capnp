@0xe1f0a3b4c5d60046;

using import "/capnp/c++.capnp".namespace;
$namespace("aliased");

struct Point {}
