#include "codegen/capability_search.h"

namespace mi7::codegen {

CapabilityField CapabilitySearch::Find(uint64_t id, const std::vector<Brand::Reader>& brands,
                                       uint32_t* through) {
  CapabilityField result;
  // A struct that is reached again while it is being searched counts as clean, which may prove
  // wrong: another pass follows until one finds nothing new.
  do {
    changed_ = false;
    visited_.clear();
    Values values;
    for (Brand::Reader brand : brands) values = Inside(brand, values);
    result = OfFields(id, values, through);
  } while (changed_);
  for (const State& state : visited_) {
    if (found_.count(state) == 0) clean_.insert(state);
  }
  return result;
}

CapabilitySearch::Values CapabilitySearch::Inside(Brand::Reader brand, const Values& outer) {
  return ApplyBrand(brand, outer, CapabilityField{},
                    [&](Type::Reader type) { return OfType(type, outer); });
}

CapabilityField CapabilitySearch::OfType(Type::Reader type, const Values& outer) {
  switch (type.which()) {
    case Type::INTERFACE:
      return {.interface = type.getInterface().getTypeId()};
    case Type::LIST:
      return OfType(type.getList().getElementType(), outer);
    case Type::STRUCT:
      return OfStruct({type.getStruct().getTypeId(), Inside(type.getStruct().getBrand(), outer)});
    case Type::ANY_POINTER: {
      auto any = type.getAnyPointer();
      if (any.isParameter()) {
        auto parameter = any.getParameter();
        return Lookup(outer, parameter.getScopeId(), parameter.getParameterIndex(),
                      CapabilityField{});
      }
      if (any.isUnconstrained() && any.getUnconstrained().isCapability()) {
        return {.interface = kAnyCapability};
      }
      return {};
    }
    default:
      return {};
  }
}

CapabilityField CapabilitySearch::OfField(uint64_t owner, uint32_t field, const Values& outer) {
  auto reader = schema_.Find(owner).getStruct().getFields()[field];
  if (reader.isGroup()) return OfStruct({reader.getGroup().getTypeId(), outer});
  CapabilityField result = OfType(reader.getSlot().getType(), outer);
  if (result && result.owner == 0) {
    result.owner = owner;
    result.field = field;
  }
  return result;
}

CapabilityField CapabilitySearch::OfFields(uint64_t owner, const Values& outer, uint32_t* through) {
  const uint32_t count = schema_.Find(owner).getStruct().getFields().size();
  for (uint32_t i = 0; i < count; ++i) {
    if (CapabilityField found = OfField(owner, i, outer)) {
      *through = i;
      return found;
    }
  }
  return {};
}

CapabilityField CapabilitySearch::OfStruct(const State& state) {
  auto known = found_.find(state);
  if (known != found_.end()) return known->second;
  if (clean_.count(state) != 0 || !visited_.insert(state).second) return {};
  uint32_t through = 0;
  CapabilityField found = OfFields(state.first, state.second, &through);
  if (found) changed_ = found_.emplace(state, found).second || changed_;
  return found;
}

}  // namespace mi7::codegen
