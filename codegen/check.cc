#include "codegen/check.h"

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "codegen/ancestors.h"
#include "codegen/build.h"
#include "codegen/capability_search.h"
#include "codegen/check_cpp_names.h"
#include "codegen/check_imports.h"
#include "codegen/names.h"
#include "codegen/reporter.h"

namespace mi7::codegen {
namespace {

// As long as a timeout can be on the wire (transport::EncodeTimeout).
constexpr uint32_t kTimeoutMsMax = 0x7fff'ffff;

class Checker {
 public:
  Checker(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested,
          const SourceFinder& sources)
      : schema_(schema),
        requested_(requested),
        file_(requested.getId()),
        sources_(sources),
        reporter_(schema, requested.getFilename().cStr(),
                  sources.Read(requested.getFilename().cStr(), file_).text),
        capabilities_(schema) {}

  std::vector<Problem> Check() {
    const std::vector<uint64_t> interfaces = InterfacesOf(schema_, file_);
    if (!interfaces.empty()) CheckNamespace();
    CheckCppNames(schema_, file_, reporter_);
    for (uint64_t interface : interfaces) {
      CheckNames(interface);
      CheckBrands(interface);
    }
    // Own methods of all interfaces first, so that what is inherited is not reported again.
    for (bool inherited : {false, true}) {
      for (uint64_t interface : interfaces) CheckMethods(interface, inherited);
    }
    CheckImports(schema_, requested_, sources_, reporter_);
    return reporter_.Take();
  }

 private:
  void ReportMethod(uint64_t interface, uint64_t declared_in, const std::string& method,
                    std::string what, std::string remedy) {
    std::vector<std::string> path = reporter_.Path(interface);
    std::string subject = "method " + schema_.ScopedName(interface) + "." + method;
    if (interface == declared_in) {
      path.push_back(method);
    } else {
      subject += " (inherited from " + schema_.ScopedName(declared_in) + ")";
    }
    reporter_.Report(subject, std::move(path), std::move(what), std::move(remedy));
  }

  void CheckNamespace() {
    const std::vector<std::string> parts = schema_.CppNamespace(file_);
    for (const std::string& part : parts) {
      if (IsUsableIdentifier(part)) continue;
      reporter_.ReportNamespace("'" + part + "' is no C++ name", "use an identifier");
    }
    if (parts == std::vector<std::string>{"mi7"}) {
      reporter_.ReportNamespace("mi7's own names are in 'mi7', and yours would collide with them",
                                "use a namespace of your own");
    }
  }

  void CheckNames(uint64_t interface) {
    std::set<std::string> nested;  // what capnpc-c++ declares in its type of the interface
    for (auto declaration : schema_.Find(interface).getNestedNodes()) {
      nested.insert(schema_.Has(declaration.getId()) ? schema_.CppName(declaration.getId())
                                                     : declaration.getName().cStr());
    }
    std::map<std::string, std::string> methods;  // by name in C++
    for (auto method : schema_.Find(interface).getInterface().getMethods()) {
      const std::string own = method.getName().cStr();
      const std::string name = Capitalize(NameInCpp(method));
      if (!IsUsableIdentifier(name)) {
        ReportMethod(interface, interface, own,
                     "$Cxx.name(\"" + NameInCpp(method) + "\") is no C++ name",
                     "use an identifier that is no keyword and has no leading or double "
                     "underscore");
        continue;
      }
      const auto [first, is_new] = methods.emplace(name, own);
      if (!is_new) {
        ReportMethod(interface, interface, own,
                     "is called " + name + " in C++, as is " + first->second +
                         ", so that capnpc-c++ would define their parameters twice",
                     "give one of them another $Cxx.name");
      }
      for (uint64_t id : {method.getParamStructType(), method.getResultStructType()}) {
        if (schema_.FindImplicit(id) == nullptr || nested.count(schema_.CppName(id)) == 0) continue;
        ReportMethod(
            interface, interface, own,
            "capnpc-c++ calls the struct of its " +
                std::string(schema_.FindImplicit(id)->is_results ? "results" : "parameters") + " " +
                schema_.CppName(id) + ", as another type in the interface",
            "rename one of them, or use that type in the method's declaration");
      }
    }
  }

  // One interface that is reached twice must have the same type arguments: a call names its
  // interface by id alone.
  void CheckBrands(uint64_t interface) {
    const TypeWriter types(schema_, schema_.CppNamespace(file_), {});
    std::map<uint64_t, std::string> seen;
    CheckBrands(interface, interface, SelfBindings(schema_, interface, {}), types, seen);
  }

  void CheckBrands(uint64_t interface, uint64_t ancestor, const Bindings<CppType>& bindings,
                   const TypeWriter& types, std::map<uint64_t, std::string>& seen) {
    const std::string name = types.Named(ancestor, bindings).name;
    const auto [first, is_new] = seen.emplace(ancestor, name);
    if (!is_new) {
      if (first->second == name) return;
      reporter_.ReportType(interface,
                           "extends " + schema_.ScopedName(ancestor) +
                               " twice with different type arguments (" + first->second + " and " +
                               name + "), and a call cannot say which of them it means",
                           "extend it once");
      first->second = name;  // Report each conflict once.
      return;
    }
    for (auto superclass : schema_.Find(ancestor).getInterface().getSuperclasses()) {
      CheckBrands(interface, superclass.getId(), types.Inside(superclass.getBrand(), bindings),
                  types, seen);
    }
  }

  void CheckMethods(uint64_t interface, bool inherited) {
    for (const Ancestor& ancestor : AncestorsOf(schema_, interface)) {
      if (ancestor.path.empty() == inherited) continue;
      uint16_t ordinal = 0;
      for (auto method : schema_.Find(ancestor.id).getInterface().getMethods()) {
        const std::pair<uint64_t, uint16_t> key(ancestor.id, ordinal++);
        if (reported_.count(key) != 0) continue;
        const size_t before = reporter_.count();
        CheckMethod(interface, ancestor, method);
        if (reporter_.count() != before && !inherited) reported_.insert(key);
      }
    }
  }

  void CheckMethod(uint64_t interface, const Ancestor& ancestor,
                   ::capnp::schema::Method::Reader method) {
    const std::string name = method.getName().cStr();
    if (HasAnnotation(method.getAnnotations(), kStreamingAnnotation) && !StreamingOf(method)) {
      ReportMethod(interface, ancestor.id, name,
                   "has a value of $Mi7.streaming that this version of mi7 does not know",
                   "use client, server or bidirectional, or a later mi7");
    }
    if (method.getResultStructType() == kStreamResult) {
      if (StreamingOf(method)) {
        ReportMethod(interface, ancestor.id, name,
                     "returns 'stream' and has $Mi7.streaming, which mean different things",
                     "remove the annotation, or return '()' instead of 'stream'");
      }
    } else {
      CheckMessage(interface, ancestor, name, method.getResultStructType(), method.getResultBrand(),
                   "result");
    }
    CheckMessage(interface, ancestor, name, method.getParamStructType(), method.getParamBrand(),
                 "parameter");
    CheckRules(interface, ancestor.id, method);
  }

  // Annotations that say how the method may be called.
  void CheckRules(uint64_t interface, uint64_t declared_in,
                  ::capnp::schema::Method::Reader method) {
    const auto annotations = method.getAnnotations();
    const auto report = [&](const char* what, const char* remedy) {
      ReportMethod(interface, declared_in, method.getName().cStr(), what, remedy);
    };
    if (HasAnnotation(annotations, kTimeoutAnnotation)) {
      const uint32_t timeout_ms = AnnotationNumber(annotations, kTimeoutAnnotation);
      if (timeout_ms == 0) {
        report("has $Mi7.timeout(0), in which no call can succeed",
               "give it milliseconds, or remove the annotation for none");
      } else if (timeout_ms > kTimeoutMsMax) {
        report("has a $Mi7.timeout of more than 2147483647 ms (24 days), which cannot be sent",
               "shorten it, or remove the annotation for none");
      }
    }
    const bool is_series = method.getResultStructType() == kStreamResult;
    if ((is_series || HasAnnotation(annotations, kStreamingAnnotation)) &&
        (HasAnnotation(annotations, kRetryableAnnotation) ||
         HasAnnotation(annotations, kIdempotentAnnotation) ||
         HasAnnotation(annotations, kDeduplicateAnnotation))) {
      report(is_series
                 ? "returns 'stream', so that its calls, which come in an order, are not repeated "
                   "when "
                   "they may have run, and has an annotation about repeated calls"
                 : "is a stream, which is not repeated when it may have run, and has an annotation "
                   "about repeated calls",
             "remove $Mi7.retryable, $Mi7.idempotent or $Mi7.deduplicate");
      return;
    }
    const bool idempotent = HasAnnotation(annotations, kIdempotentAnnotation);
    if (idempotent && HasAnnotation(annotations, kRetryableAnnotation)) {
      report("is $Mi7.retryable and $Mi7.idempotent, which includes it", "remove $Mi7.retryable");
    }
    if (idempotent && HasAnnotation(annotations, kDeduplicateAnnotation)) {
      report(
          "is $Mi7.idempotent, so that it may run twice, and $Mi7.deduplicate, so that it may not",
          "remove one of them");
    }
  }

  void CheckMessage(uint64_t interface, const Ancestor& ancestor, const std::string& method,
                    uint64_t message, Brand::Reader brand, const std::string& kind) {
    std::vector<Brand::Reader> brands = ancestor.brands;
    brands.push_back(brand);
    uint32_t through = 0;
    const CapabilityField found = capabilities_.Find(message, brands, &through);
    if (!found) return;

    auto fields = schema_.Find(message).getStruct().getFields();
    std::string what = schema_.FindImplicit(message) != nullptr
                           ? kind + " '" + fields[through].getName().cStr() + "'"
                           : "field '" + std::string(fields[through].getName().cStr()) +
                                 "' of its " + kind + " type " + schema_.ScopedName(message);
    if (found.owner != message) {
      auto field = schema_.Find(found.owner).getStruct().getFields()[found.field];
      what += " leads to field '" + std::string(field.getName().cStr()) + "' of " +
              schema_.ScopedName(found.owner) + ", which";
    }
    what += found.interface == kAnyCapability
                ? " is a Capability"
                : " is an interface (" + schema_.ScopedName(found.interface) + ")";
    ReportMethod(interface, ancestor.id, method,
                 what + ", and mi7 does not support interfaces in messages yet",
                 "pass an id or an address that the peer can call instead, or move the field out "
                 "of the method's types");
  }

  const Schema& schema_;
  CodeGeneratorRequest::RequestedFile::Reader requested_;
  uint64_t file_;
  const SourceFinder& sources_;
  Reporter reporter_;
  CapabilitySearch capabilities_;
  std::set<std::pair<uint64_t, uint16_t>> reported_;  // interface and method
};

}  // namespace

std::string Problem::ToString() const {
  return file + (line == 0 ? "" : ":" + std::to_string(line)) + ": error: " + subject + ": " +
         what + "; " + remedy + ".";
}

std::vector<Problem> CheckFile(const Schema& schema,
                               CodeGeneratorRequest::RequestedFile::Reader requested,
                               const SourceFinder& sources) {
  return Checker(schema, requested, sources).Check();
}

}  // namespace mi7::codegen
