@0xe1f0a3b4c5d60050;
# What an import is called in other languages does not hide what it is in C++.

using Cxx = import "/capnp/c++.capnp";
using Used = import "other_languages_used_base.capnp";
using Unused = import "other_languages_unused_base.capnp";
$Cxx.namespace("bad");

struct Point {}
struct Hidden {}
struct Direct {}
interface Service {
  call @0 Used.Used -> ();
}
