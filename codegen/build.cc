#include "codegen/build.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "codegen/ancestors.h"
#include "codegen/signature.h"

namespace mi7::codegen {
namespace {

// Members of mi7::Service and mi7::Stub, and their own names, which mean the classes inside them.
constexpr const char* kRuntimeMembers[] = {
    "Dispatch",   "FinishStream",     "FlowStub",       "NewCall",          "NewFlowRequest",
    "NewRequest", "NewStreamRequest", "OpenBidiStream", "OpenClientStream", "Service",
    "Stub"};

void CollectInterfaces(const Schema& schema, uint64_t scope, std::vector<uint64_t>& result) {
  for (auto nested : schema.Find(scope).getNestedNodes()) {
    // Also guards against scopes that contain each other.
    if (!schema.Has(nested.getId()) || schema.ScopeOf(nested.getId()) != scope) continue;
    if (schema.Find(nested.getId()).isInterface()) result.push_back(nested.getId());
    CollectInterfaces(schema, nested.getId(), result);
  }
}

MethodKind KindOf(::capnp::schema::Method::Reader method) {
  if (method.getResultStructType() == kStreamResult) return MethodKind::kFlow;
  const std::optional<Streaming> streaming = StreamingOf(method);
  if (!streaming) return MethodKind::kUnary;
  switch (*streaming) {
    case Streaming::kClient:
      return MethodKind::kClientStreaming;
    case Streaming::kServer:
      return MethodKind::kServerStreaming;
    case Streaming::kBidirectional:
      return MethodKind::kBidirectional;
  }
  return MethodKind::kUnary;
}

TableMethod DescribeMethod(::capnp::schema::Method::Reader method) {
  const auto annotations = method.getAnnotations();
  TableMethod result;
  result.name = method.getName().cStr();
  result.kind = KindOf(method);
  result.timeout_ms = AnnotationNumber(annotations, kTimeoutAnnotation);
  if (HasAnnotation(annotations, kRetryableAnnotation)) result.repeat = Repeat::kRetryable;
  if (HasAnnotation(annotations, kIdempotentAnnotation)) result.repeat = Repeat::kIdempotent;
  result.deduplicate = HasAnnotation(annotations, kDeduplicateAnnotation);
  result.control = HasControlPriority(method);
  return result;
}

class Builder {
 public:
  Builder(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested)
      : schema_(schema), requested_(requested) {}

  File Build() {
    file_.id = requested_.getId();
    file_.name = requested_.getFilename().cStr();
    file_.doc = schema_.Doc(file_.id);
    file_.cpp_namespace = schema_.CppNamespace(file_.id);
    names_ = TakenNames(schema_, requested_);
    const std::vector<uint64_t> interfaces = InterfacesOf(schema_, file_.id);
    for (uint64_t id : interfaces) AddInterface(id);
    return std::move(file_);
  }

 private:
  void AddInterface(uint64_t id) {
    Interface interface;
    const std::vector<std::string> wanted = GeneratedNames(JoinedCppName(schema_, id));
    interface.table = AddTable(id);
    interface.doc = schema_.Doc(id);
    interface.service = names_.Claim(wanted[0]);
    interface.stub = names_.Claim(wanted[1]);
    interface.mock = names_.Claim(wanted[2]);

    const std::vector<Ancestor> ancestors = AncestorsOf(schema_, id);
    NameScope members;
    for (const char* member : kRuntimeMembers) members.Reserve(member);
    for (const std::string& own : {interface.service, interface.stub, interface.mock}) {
      members.Reserve(own);
    }
    NameMethods(ancestors, members, interface.methods);

    const Bindings<CppType> self = SelfBindings(schema_, id, members, &interface.template_params);
    std::set<std::string> hidden(interface.template_params.begin(),
                                 interface.template_params.end());
    hidden.insert(std::begin(kRuntimeMembers), std::end(kRuntimeMembers));
    for (const Method& method : interface.methods) hidden.insert(method.cpp_name);
    const TypeWriter types(schema_, file_.cpp_namespace, std::move(hidden));

    size_t next = 0;
    for (const Ancestor& ancestor : ancestors) {
      Bindings<CppType> bindings = self;
      for (Brand::Reader brand : ancestor.brands) bindings = types.Inside(brand, bindings);
      for (auto method : schema_.Find(ancestor.id).getInterface().getMethods()) {
        Method& out = interface.methods[next++];
        out.params = types.Named(method.getParamStructType(),
                                 types.Inside(method.getParamBrand(), bindings));
        out.results = types.Named(method.getResultStructType(),
                                  types.Inside(method.getResultBrand(), bindings));
      }
    }
    file_.interfaces.push_back(std::move(interface));
  }

  void NameMethods(const std::vector<Ancestor>& ancestors, NameScope& members,
                   std::vector<Method>& methods) {
    std::map<std::string, int> offers;  // How many ancestors offer a name.
    std::set<std::string> own;
    for (const Ancestor& ancestor : ancestors) {
      for (auto method : schema_.Find(ancestor.id).getInterface().getMethods()) {
        const std::string name = Capitalize(NameInCpp(method));
        ++offers[name];
        if (ancestor.path.empty()) own.insert(name);
      }
    }
    for (const Ancestor& ancestor : ancestors) {
      uint16_t ordinal = 0;
      for (auto method : schema_.Find(ancestor.id).getInterface().getMethods()) {
        std::string name = Capitalize(NameInCpp(method));
        if (!ancestor.path.empty() && offers[name] > 1)
          name += "_" + JoinedCppName(schema_, ancestor.id);
        Method& out = methods.emplace_back();
        out.table = AddTable(ancestor.id);
        out.ordinal = ordinal;
        out.base_path = ancestor.path;
        if (LooksLikeMacro(name)) members.Reserve(name);
        out.cpp_name = members.Claim(name);
        out.is_renamed = out.cpp_name != Capitalize(NameInCpp(method));
        out.kind = KindOf(method);
        out.doc = schema_.MemberDoc(ancestor.id, ordinal);
        out.signature = Signature(schema_, ancestor.id, ordinal);
        ++ordinal;
      }
    }
  }

  // The index of the table of an interface, its bases being there before it.
  size_t AddTable(uint64_t id) {
    auto found = tables_.find(id);
    if (found != tables_.end()) return found->second;
    if (!open_tables_.insert(id).second) FailBrokenRequest(Hex(id) + " extends itself");

    Table table;
    table.id = id;
    table.name = schema_.ScopedName(id);
    table.symbol = symbols_.Claim(JoinedCppName(schema_, id));
    auto interface = schema_.Find(id).getInterface();
    for (auto method : interface.getMethods()) table.methods.push_back(DescribeMethod(method));
    for (auto superclass : interface.getSuperclasses()) {
      table.bases.push_back(AddTable(superclass.getId()));
    }
    file_.tables.push_back(std::move(table));
    tables_.emplace(id, file_.tables.size() - 1);
    return file_.tables.size() - 1;
  }

  const Schema& schema_;
  CodeGeneratorRequest::RequestedFile::Reader requested_;
  File file_;
  NameScope names_;    // of the C++ namespace
  NameScope symbols_;  // of the tables
  std::map<uint64_t, size_t> tables_;
  std::set<uint64_t> open_tables_;  // those whose bases are being added
};

}  // namespace

std::vector<uint64_t> InterfacesOf(const Schema& schema, uint64_t file) {
  std::vector<uint64_t> result;
  CollectInterfaces(schema, file, result);
  return result;
}

std::string JoinedCppName(const Schema& schema, uint64_t id) {
  const std::vector<uint64_t> chain = schema.ScopeChain(id);
  std::string result;
  for (size_t i = 1; i < chain.size(); ++i) {
    if (i > 1) result += "_";
    result += schema.CppName(chain[i]);
  }
  return result;
}

NameScope TakenNames(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested) {
  const std::vector<std::string> cpp_namespace = schema.CppNamespace(requested.getId());
  std::vector<uint64_t> files = {requested.getId()};
  for (auto import : requested.getImports()) files.push_back(import.getId());

  NameScope taken;
  for (uint64_t file : files) {
    if (!schema.Has(file)) continue;
    const std::vector<std::string> its_namespace = schema.CppNamespace(file);
    if (its_namespace.size() < cpp_namespace.size() ||
        !std::equal(cpp_namespace.begin(), cpp_namespace.end(), its_namespace.begin())) {
      continue;
    }
    if (its_namespace.size() > cpp_namespace.size()) {
      taken.Reserve(its_namespace[cpp_namespace.size()]);
      continue;
    }
    for (auto nested : schema.Find(file).getNestedNodes()) {
      // Declarations of an import that nothing uses are not part of the request.
      taken.Reserve(schema.Has(nested.getId()) ? schema.CppName(nested.getId())
                                               : std::string(nested.getName().cStr()));
    }
  }
  return taken;
}

std::vector<std::string> GeneratedNames(const std::string& name) {
  return {name + "Service", name + "Stub", "Mock" + name + "Service"};
}

Bindings<CppType> SelfBindings(const Schema& schema, uint64_t id, NameScope taken,
                               std::vector<std::string>* names) {
  Bindings<CppType> result;
  for (uint64_t scope : schema.ScopeChain(id)) {
    for (auto parameter : schema.Find(scope).getParameters()) {
      CppType type{.name = taken.Claim(parameter.getName().cStr()), .dependent = true};
      if (names != nullptr) names->push_back(type.name);
      result[scope].push_back(std::move(type));
    }
  }
  return result;
}

File BuildFile(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested) {
  return Builder(schema, requested).Build();
}

}  // namespace mi7::codegen
