@0xe1f0a3b4c5d60041;

using Cxx = import "/capnp/c++.capnp";
using Other = import "other_languages_annotations_base.capnp";
using Unused = import "other_languages_unused_base.capnp";
using Aliased = import "other_languages_aliased_base.capnp";
$Cxx.namespace("good");
$Other.namespace("elsewhere");

const newName :Text = "Renamed";

struct Point3 $Other.name("Point") {}
struct Far2 $Cxx.name(.newName) {}
using Far = Far2;
interface Base {}
