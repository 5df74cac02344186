@0xe1f0a3b4c5d60045;
# Nothing of it is used, so that there is its text only.

using Cxx = import "/capnp/c++.capnp";
using Other = import "other_languages_annotations_base.capnp";
using Aliased = import "other_languages_aliased_base.capnp";
$Cxx.namespace("good");

struct Other3 $Other.name("Unused") {}
interface Unused2 $Other.name("Unused") {}
struct Constant $Other.Cxx.name("Variable") {}
