#pragma once

// From Cap'n Proto's model of a schema file to ours (model.h).
//
// How names come about, in this order:
// * An interface gives `<Name>Service`, `<Name>Stub` and `Mock<Name>Service` beside capnpc-c++'s
//   type. <Name> joins nested scopes: "Outer_Inner".
// * A method gives its name with a capital first letter. $Cxx.name is respected for both.
// * An inherited method whose name is taken by an own method, or that two ancestors offer, gets the
//   name of the interface that declares it: "Add_Base1".
// * A name that is still taken (by capnpc-c++, by another generated name, by a member of the
//   runtime's classes) or that looks like a macro gets an underscore: "Dispatch_".
// They depend on the file and what it imports, on nothing else.

#include <cstdint>
#include <string>
#include <vector>

#include "codegen/cpp_type.h"
#include "codegen/model.h"
#include "codegen/names.h"
#include "codegen/schema.h"

namespace mi7::codegen {

// Unsupported declarations do no harm here: CheckFile finds them.
File BuildFile(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested);

// The interfaces that a file declares, in any scope, in the order of the file.
std::vector<uint64_t> InterfacesOf(const Schema& schema, uint64_t file);

// A declaration's names in C++, its scopes' included: "Outer_Inner".
std::string JoinedCppName(const Schema& schema, uint64_t id);

// The classes that an interface of that joined name gives, before collisions are resolved: service,
// stub, mock.
std::vector<std::string> GeneratedNames(const std::string& joined_name);

// What capnpc-c++ and the namespaces of the file and of its imports declare in the file's
// namespace, as far as the request tells. Classes that would have such a name get another one.
NameScope TakenNames(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested);

// The type parameters of the scopes around a declaration and its own, each bound to itself.
// `taken` holds the names that they may not have.
Bindings<CppType> SelfBindings(const Schema& schema, uint64_t id, NameScope taken,
                               std::vector<std::string>* names = nullptr);

}  // namespace mi7::codegen
