#include "codegen/ancestors.h"

#include <set>

#include "codegen/names.h"

namespace mi7::codegen {
namespace {

void Visit(const Schema& schema, const Ancestor& current, std::set<uint64_t>& seen,
           std::vector<Ancestor>& result) {
  if (!seen.insert(current.id).second) return;
  result.push_back(current);
  Node::Reader node = schema.Find(current.id);
  if (!node.isInterface()) {
    FailBrokenRequest(Hex(current.id) + " is extended, but no interface");
  }
  size_t index = 0;
  for (auto superclass : node.getInterface().getSuperclasses()) {
    Ancestor next = current;
    next.id = superclass.getId();
    next.path.push_back(index++);
    next.brands.push_back(superclass.getBrand());
    Visit(schema, next, seen, result);
  }
}

}  // namespace

std::vector<Ancestor> AncestorsOf(const Schema& schema, uint64_t interface) {
  std::vector<Ancestor> result;
  std::set<uint64_t> seen;
  Visit(schema, Ancestor{.id = interface, .path = {}, .brands = {}}, seen, result);
  return result;
}

}  // namespace mi7::codegen
