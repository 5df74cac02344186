@0xe1f0a3b4c5d60051;
# The compiler's request tells what its text does not.

using Other = import "other_languages_annotations_base.capnp";
$Other.Cxx.namespace("bad");
$Other.namespace("elsewhere");

const newName :Text = "Point";

struct Used $Other.Cxx.name(.newName) {}
