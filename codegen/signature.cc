#include "codegen/signature.h"

#include <optional>

namespace mi7::codegen {
namespace {

class SignatureWriter {
 public:
  SignatureWriter(const Schema& schema, ::capnp::schema::Method::Reader method)
      : schema_(schema), method_(method) {}

  std::string Write(uint32_t ordinal) const {
    std::string result = method_.getName().cStr();
    result += " @" + std::to_string(ordinal) + " ";
    auto parameters = method_.getImplicitParameters();
    for (uint32_t i = 0; i < parameters.size(); ++i) {
      result += (i == 0 ? "[" : ", ") + std::string(parameters[i].getName().cStr());
    }
    if (parameters.size() > 0) result += "] ";
    return result + List(method_.getParamStructType(), method_.getParamBrand()) + " -> " +
           (method_.getResultStructType() == kStreamResult
                ? "stream"
                : List(method_.getResultStructType(), method_.getResultBrand())) +
           Rules();
  }

 private:
  // mi7's annotations that say how the method may be called.
  std::string Rules() const {
    const auto annotations = method_.getAnnotations();
    std::string result;
    if (const std::optional<Streaming> streaming = StreamingOf(method_)) {
      constexpr const char* kNames[] = {"client", "server", "bidirectional"};
      result += std::string(" $Mi7.streaming(") + kNames[static_cast<size_t>(*streaming)] + ")";
    }
    if (const uint32_t timeout_ms = AnnotationNumber(annotations, kTimeoutAnnotation)) {
      result += " $Mi7.timeout(" + std::to_string(timeout_ms) + ")";
    }
    if (HasAnnotation(annotations, kRetryableAnnotation)) result += " $Mi7.retryable";
    if (HasAnnotation(annotations, kIdempotentAnnotation)) result += " $Mi7.idempotent";
    if (HasAnnotation(annotations, kDeduplicateAnnotation)) result += " $Mi7.deduplicate";
    if (HasControlPriority(method_)) result += " $Mi7.priority(control)";
    return result;
  }

  std::string List(uint64_t id, Brand::Reader brand) const {
    if (schema_.FindImplicit(id) == nullptr) return Branded(id, brand);
    std::string result = "(";
    for (auto field : schema_.Find(id).getStruct().getFields()) {
      if (result.size() > 1) result += ", ";
      result += field.getName().cStr();
      if (field.isSlot()) result += " :" + TypeName(field.getSlot().getType());
    }
    return result + ")";
  }

  std::string Branded(uint64_t id, Brand::Reader brand) const {
    std::string result = schema_.Name(id);
    for (auto scope : brand.getScopes()) {
      if (scope.getScopeId() != id || !scope.isBind()) continue;
      const char* separator = "(";
      for (auto binding : scope.getBind()) {
        result += separator + (binding.isType() ? TypeName(binding.getType()) : "AnyPointer");
        separator = ", ";
      }
      result += ")";
    }
    return result;
  }

  std::string TypeName(Type::Reader type) const {
    switch (type.which()) {
      case Type::VOID:
        return "Void";
      case Type::BOOL:
        return "Bool";
      case Type::INT8:
        return "Int8";
      case Type::INT16:
        return "Int16";
      case Type::INT32:
        return "Int32";
      case Type::INT64:
        return "Int64";
      case Type::UINT8:
        return "UInt8";
      case Type::UINT16:
        return "UInt16";
      case Type::UINT32:
        return "UInt32";
      case Type::UINT64:
        return "UInt64";
      case Type::FLOAT32:
        return "Float32";
      case Type::FLOAT64:
        return "Float64";
      case Type::TEXT:
        return "Text";
      case Type::DATA:
        return "Data";
      case Type::LIST:
        return "List(" + TypeName(type.getList().getElementType()) + ")";
      case Type::ENUM:
        return Branded(type.getEnum().getTypeId(), type.getEnum().getBrand());
      case Type::STRUCT:
        return Branded(type.getStruct().getTypeId(), type.getStruct().getBrand());
      case Type::INTERFACE:
        return Branded(type.getInterface().getTypeId(), type.getInterface().getBrand());
      case Type::ANY_POINTER:
        return AnyPointerName(type.getAnyPointer());
    }
    return "AnyPointer";
  }

  std::string AnyPointerName(Type::AnyPointer::Reader any) const {
    if (any.isUnconstrained()) {
      auto kind = any.getUnconstrained();
      if (kind.isStruct()) return "AnyStruct";
      if (kind.isList()) return "AnyList";
      if (kind.isCapability()) return "Capability";
      return "AnyPointer";
    }
    if (any.isImplicitMethodParameter()) {
      return Parameter(method_.getImplicitParameters(),
                       any.getImplicitMethodParameter().getParameterIndex());
    }
    auto parameter = any.getParameter();
    return Parameter(schema_.Find(parameter.getScopeId()).getParameters(),
                     parameter.getParameterIndex());
  }

  static std::string Parameter(::capnp::List<Node::Parameter>::Reader parameters, uint32_t index) {
    return index < parameters.size() ? parameters[index].getName().cStr() : "AnyPointer";
  }

  const Schema& schema_;
  ::capnp::schema::Method::Reader method_;
};

}  // namespace

std::string Signature(const Schema& schema, uint64_t interface, uint32_t method) {
  return SignatureWriter(schema, schema.Find(interface).getInterface().getMethods()[method])
      .Write(method);
}

}  // namespace mi7::codegen
