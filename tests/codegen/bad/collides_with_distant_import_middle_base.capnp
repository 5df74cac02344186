@0xe1f0a3b4c5d60031;

using Cxx = import "/capnp/c++.capnp";
using Far = import "collides_with_distant_import_far_base.capnp";
$Cxx.namespace("bad");

interface Near extends(Far.Distant) {}
