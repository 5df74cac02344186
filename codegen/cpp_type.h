#pragma once

// What capnpc-c++ calls a type, brand included.

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "codegen/brand.h"
#include "codegen/model.h"
#include "codegen/schema.h"

namespace mi7::codegen {

// Names types as seen from one C++ namespace. Thread-compatible; refers to the schema.
class TypeWriter {
 public:
  // Names in `hidden` mean something else where the types are going to stand: a type whose first
  // name is among them is written in full.
  TypeWriter(const Schema& schema, std::vector<std::string> cpp_namespace,
             std::set<std::string> hidden);

  // A struct, enum or interface (an implicit parameter struct included).
  CppType Named(uint64_t id, const Bindings<CppType>& bindings) const;
  CppType Any(Type::Reader type, const Bindings<CppType>& outer) const;
  // What the parameters of scopes stand for where `brand` is applied.
  Bindings<CppType> Inside(Brand::Reader brand, const Bindings<CppType>& outer) const;

 private:
  const Schema& schema_;
  std::vector<std::string> cpp_namespace_;
  std::set<std::string> hidden_;
};

}  // namespace mi7::codegen
