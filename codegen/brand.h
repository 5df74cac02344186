#pragma once

// Generics: what the type parameters of the enclosing scopes stand for at one place of a schema.

#include <cstdint>
#include <map>
#include <vector>

#include "codegen/schema.h"

namespace mi7::codegen {

// Scope id to the values of its parameters, in order. What is absent stands for AnyPointer.
template <typename Value>
using Bindings = std::map<uint64_t, std::vector<Value>>;

// The bindings inside a declaration that is named with `brand` where `outer` holds. `evaluate`
// turns a Type::Reader, as seen in `outer`, into a Value; `unbound` is the Value of AnyPointer.
template <typename Value, typename Evaluate>
Bindings<Value> ApplyBrand(Brand::Reader brand, const Bindings<Value>& outer, const Value& unbound,
                           const Evaluate& evaluate) {
  Bindings<Value> inner;
  for (auto scope : brand.getScopes()) {
    if (scope.isInherit()) {
      auto found = outer.find(scope.getScopeId());
      if (found != outer.end()) inner[scope.getScopeId()] = found->second;
      continue;
    }
    std::vector<Value>& values = inner[scope.getScopeId()];
    for (auto binding : scope.getBind()) {
      values.push_back(binding.isType() ? evaluate(binding.getType()) : unbound);
    }
  }
  return inner;
}

// The value of parameter `index` of `scope`.
template <typename Value>
const Value& Lookup(const Bindings<Value>& bindings, uint64_t scope, size_t index,
                    const Value& unbound) {
  auto found = bindings.find(scope);
  if (found == bindings.end() || index >= found->second.size()) return unbound;
  return found->second[index];
}

}  // namespace mi7::codegen
