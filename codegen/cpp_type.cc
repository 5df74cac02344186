#include "codegen/cpp_type.h"

#include <utility>

#include "codegen/names.h"

namespace mi7::codegen {
namespace {

CppType Plain(const char* name) { return CppType{.name = name}; }

}  // namespace

TypeWriter::TypeWriter(const Schema& schema, std::vector<std::string> cpp_namespace,
                       std::set<std::string> hidden)
    : schema_(schema), cpp_namespace_(std::move(cpp_namespace)), hidden_(std::move(hidden)) {}

CppType TypeWriter::Named(uint64_t id, const Bindings<CppType>& bindings) const {
  const std::vector<uint64_t> chain = schema_.ScopeChain(id);
  if (chain.size() < 2) FailBrokenRequest(Hex(id) + " is used as a type, but has no scope");

  CppType result{.name = ""};
  const std::vector<std::string> its_namespace = schema_.CppNamespace(chain[0]);
  if (its_namespace != cpp_namespace_ || hidden_.count(schema_.CppName(chain[1])) != 0) {
    for (const std::string& part : its_namespace) result.name += "::" + part;
    result.name += "::";
  }
  for (size_t i = 1; i < chain.size(); ++i) {
    auto parameters = schema_.Find(chain[i]).getParameters();
    result.member = result.dependent;
    if (i > 1) result.name += "::";
    if (result.dependent && parameters.size() > 0) result.name += "template ";
    result.name += schema_.CppName(chain[i]);
    if (parameters.size() == 0) continue;
    std::string arguments;
    bool all_default = true;
    for (uint32_t p = 0; p < parameters.size(); ++p) {
      const CppType argument = Lookup(bindings, chain[i], p, CppType{});
      arguments += (p == 0 ? "" : ", ") + argument.Spelled();
      result.dependent |= argument.dependent;
      all_default &= argument.name == CppType{}.name;
    }
    result.name += all_default ? "<>" : "<" + arguments + ">";
  }
  return result;
}

CppType TypeWriter::Any(Type::Reader type, const Bindings<CppType>& outer) const {
  switch (type.which()) {
    case Type::VOID:
      return Plain("::capnp::Void");
    case Type::BOOL:
      return Plain("bool");
    case Type::INT8:
      return Plain("int8_t");
    case Type::INT16:
      return Plain("int16_t");
    case Type::INT32:
      return Plain("int32_t");
    case Type::INT64:
      return Plain("int64_t");
    case Type::UINT8:
      return Plain("uint8_t");
    case Type::UINT16:
      return Plain("uint16_t");
    case Type::UINT32:
      return Plain("uint32_t");
    case Type::UINT64:
      return Plain("uint64_t");
    case Type::FLOAT32:
      return Plain("float");
    case Type::FLOAT64:
      return Plain("double");
    case Type::TEXT:
      return Plain("::capnp::Text");
    case Type::DATA:
      return Plain("::capnp::Data");
    case Type::LIST: {
      CppType element = Any(type.getList().getElementType(), outer);
      return CppType{.name = "::capnp::List<" + element.Spelled() + ">",
                     .dependent = element.dependent};
    }
    case Type::ENUM:
      return Named(type.getEnum().getTypeId(), Inside(type.getEnum().getBrand(), outer));
    case Type::STRUCT:
      return Named(type.getStruct().getTypeId(), Inside(type.getStruct().getBrand(), outer));
    case Type::INTERFACE:
      return Named(type.getInterface().getTypeId(), Inside(type.getInterface().getBrand(), outer));
    case Type::ANY_POINTER:
      break;
  }
  auto any = type.getAnyPointer();
  if (any.isParameter()) {
    auto parameter = any.getParameter();
    return Lookup(outer, parameter.getScopeId(), parameter.getParameterIndex(), CppType{});
  }
  if (any.isUnconstrained()) {
    auto kind = any.getUnconstrained();
    if (kind.isStruct()) return Plain("::capnp::AnyStruct");
    if (kind.isList()) return Plain("::capnp::AnyList");
    if (kind.isCapability()) return Plain("::capnp::Capability");
  }
  // A method's own type parameter is inferred nowhere in C++: capnpc-c++ takes it for AnyPointer.
  return CppType{};
}

Bindings<CppType> TypeWriter::Inside(Brand::Reader brand, const Bindings<CppType>& outer) const {
  return ApplyBrand(brand, outer, CppType{}, [&](Type::Reader type) { return Any(type, outer); });
}

}  // namespace mi7::codegen
