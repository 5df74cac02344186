@0xe1f0a3b4c5d60052;

using Other = import "other_languages_annotations_base.capnp";
using space = import "/capnp/c++.capnp".namespace;
$space("bad");
$Other.namespace("elsewhere");

struct Hidden $Other.name("Vector") {}
struct Vector $import "/capnp/c++.capnp".name("Direct") {}
