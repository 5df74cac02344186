#include "codegen/schema.h"

#include <algorithm>
#include <stdexcept>

#include "codegen/names.h"

namespace mi7::codegen {

std::string AnnotationText(::capnp::List<::capnp::schema::Annotation>::Reader annotations,
                           uint64_t annotation) {
  for (auto candidate : annotations) {
    if (candidate.getId() == annotation) return candidate.getValue().getText().cStr();
  }
  return "";
}

uint32_t AnnotationNumber(::capnp::List<::capnp::schema::Annotation>::Reader annotations,
                          uint64_t annotation) {
  for (auto candidate : annotations) {
    if (candidate.getId() == annotation) return candidate.getValue().getUint32();
  }
  return 0;
}

std::optional<Streaming> StreamingOf(::capnp::schema::Method::Reader method) {
  for (auto annotation : method.getAnnotations()) {
    if (annotation.getId() != kStreamingAnnotation || !annotation.getValue().isEnum()) continue;
    const uint16_t value = annotation.getValue().getEnum();
    if (value <= static_cast<uint16_t>(Streaming::kBidirectional)) {
      return static_cast<Streaming>(value);
    }
  }
  return std::nullopt;
}

bool HasControlPriority(::capnp::schema::Method::Reader method) {
  constexpr uint16_t kControl = 1;  // Priority.control of annotations.capnp
  for (auto annotation : method.getAnnotations()) {
    if (annotation.getId() != kPriorityAnnotation || !annotation.getValue().isEnum()) continue;
    return annotation.getValue().getEnum() == kControl;
  }
  return false;
}

bool HasAnnotation(::capnp::List<::capnp::schema::Annotation>::Reader annotations,
                   uint64_t annotation) {
  for (auto candidate : annotations) {
    if (candidate.getId() == annotation) return true;
  }
  return false;
}

void FailBrokenRequest(const std::string& what) { throw std::runtime_error(what); }

Schema::Schema(CodeGeneratorRequest::Reader request) : request_(request) {
  for (auto node : request.getNodes()) {
    nodes_.emplace(node.getId(), node);
    for (auto nested : node.getNestedNodes()) {
      names_.emplace(nested.getId(), nested.getName().cStr());
    }
  }
  for (auto node : request.getNodes()) {
    if (!node.isInterface()) continue;
    uint16_t ordinal = 0;
    for (auto method : node.getInterface().getMethods()) {
      for (bool is_results : {false, true}) {
        uint64_t id = is_results ? method.getResultStructType() : method.getParamStructType();
        auto found = nodes_.find(id);
        if (found != nodes_.end() && found->second.getScopeId() == 0) {
          implicit_.emplace(id, ImplicitStruct{node.getId(), ordinal, is_results});
        }
      }
      ++ordinal;
    }
  }
  for (auto info : request.getSourceInfo()) sources_.emplace(info.getId(), info);
}

Node::Reader Schema::Find(uint64_t id) const {
  auto found = nodes_.find(id);
  if (found == nodes_.end()) FailBrokenRequest("it lacks the declaration " + Hex(id));
  return found->second;
}

const ImplicitStruct* Schema::FindImplicit(uint64_t id) const {
  auto found = implicit_.find(id);
  return found == implicit_.end() ? nullptr : &found->second;
}

uint64_t Schema::ScopeOf(uint64_t id) const {
  const ImplicitStruct* implicit = FindImplicit(id);
  return implicit != nullptr ? implicit->interface : Find(id).getScopeId();
}

std::vector<uint64_t> Schema::ScopeChain(uint64_t id) const {
  std::vector<uint64_t> chain;
  for (uint64_t scope = id; scope != 0; scope = ScopeOf(scope)) {
    chain.push_back(scope);
    if (chain.size() > nodes_.size()) FailBrokenRequest(Hex(id) + " encloses itself");
  }
  std::reverse(chain.begin(), chain.end());
  return chain;
}

std::vector<std::string> Schema::CppNamespace(uint64_t file) const {
  return SplitNamespace(AnnotationText(Find(file).getAnnotations(), kCxxNamespaceAnnotation));
}

std::string Schema::Name(uint64_t id) const {
  if (const ImplicitStruct* implicit = FindImplicit(id)) {
    auto method = Find(implicit->interface).getInterface().getMethods()[implicit->method];
    return std::string(method.getName().cStr()) + (implicit->is_results ? "Results" : "Params");
  }
  auto found = names_.find(id);
  if (found != names_.end()) return found->second;
  // A group, which its struct does not list, or a file.
  Node::Reader node = Find(id);
  return node.getDisplayName().cStr() +
         std::min<size_t>(node.getDisplayNamePrefixLength(), node.getDisplayName().size());
}

std::string Schema::ScopedName(uint64_t id) const {
  std::string result;
  std::vector<uint64_t> chain = ScopeChain(id);
  for (size_t i = 1; i < chain.size(); ++i) result += (i > 1 ? "." : "") + Name(chain[i]);
  return result;
}

std::string Schema::CppName(uint64_t id) const {
  if (const ImplicitStruct* implicit = FindImplicit(id)) {
    auto method = Find(implicit->interface).getInterface().getMethods()[implicit->method];
    return Capitalize(NameInCpp(method)) + (implicit->is_results ? "Results" : "Params");
  }
  std::string renamed = AnnotationText(Find(id).getAnnotations(), kCxxNameAnnotation);
  return renamed.empty() ? Name(id) : renamed;
}

std::string Schema::Doc(uint64_t id) const {
  auto found = sources_.find(id);
  return found == sources_.end() ? "" : found->second.getDocComment().cStr();
}

std::string Schema::MemberDoc(uint64_t id, uint32_t member) const {
  auto found = sources_.find(id);
  if (found == sources_.end() || member >= found->second.getMembers().size()) return "";
  return found->second.getMembers()[member].getDocComment().cStr();
}

}  // namespace mi7::codegen
