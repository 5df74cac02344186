#include "codegen/check_cpp_names.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "codegen/macros.h"
#include "codegen/names.h"

namespace mi7::codegen {
namespace {

constexpr char kRename[] = "rename it, or give it another $Cxx.name";
constexpr char kUseIdentifier[] =
    "use an identifier that is no keyword and has no leading or double underscore";
constexpr char kMacro[] = ", which is a macro in a header that generated code includes";

// The names of one C++ scope, and what has each.
using Names = std::map<std::string, std::string>;
// The type parameters of the scopes around, which nothing inside may hide.
using Parameters = std::set<std::string>;

class CppNames {
 public:
  CppNames(const Schema& schema, Reporter& reporter) : schema_(schema), reporter_(reporter) {}

  // What is declared inside the file, struct or interface `scope`.
  void CheckNested(uint64_t scope, Names& names, const Parameters& parameters) {
    for (auto nested : schema_.Find(scope).getNestedNodes()) {
      const uint64_t id = nested.getId();
      // As in InterfacesOf: also guards against scopes that contain each other.
      if (!schema_.Has(id) || schema_.ScopeOf(id) != scope) continue;
      const Node::Reader node = schema_.Find(id);
      if (!node.isStruct() && !node.isInterface() && !node.isEnum() && !node.isConst()) continue;

      const std::string name = node.isConst() ? UpperCase(schema_.Name(id)) : schema_.CppName(id);
      if (!IsUsableIdentifier(name)) {
        reporter_.ReportType(id, "$Cxx.name(\"" + name + "\") is no C++ name", kUseIdentifier);
        continue;
      }
      const std::string problem = Declare(name, "another declaration", names, parameters);
      if (!problem.empty()) {
        reporter_.ReportType(id, problem, node.isConst() ? "rename it" : kRename);
        continue;
      }
      if (node.isStruct()) CheckStruct(id, name, parameters);
      if (node.isInterface()) CheckInterface(id, name, parameters);
      if (node.isEnum()) CheckEnum(id);
    }
  }

 private:
  // Takes a name that something in the schema gives; says what is wrong with it, or "".
  std::string Declare(const std::string& name, const std::string& who, Names& names,
                      const Parameters& parameters) const {
    if (IsMacro(name)) return "is called " + name + " in C++" + kMacro;
    if (parameters.count(name) != 0) {
      return "is called " + name + " in C++, as is a type parameter around it";
    }
    const auto [first, is_new] = names.emplace(name, who);
    return is_new ? "" : "is called " + name + " in C++, as is " + first->second;
  }

  // Begins the scope of a struct or an interface called `name`, in which capnpc-c++ declares
  // `classes`, and `hidden` where they hide no more than type parameters.
  Names Enter(uint64_t id, const std::string& name, const std::vector<std::string>& classes,
              const std::vector<std::string>& hidden, Parameters& parameters) {
    for (auto parameter : schema_.Find(id).getParameters()) {
      const std::string own = parameter.getName().cStr();
      if (IsCppKeyword(own) || IsMacro(own)) {
        reporter_.ReportType(id, "has the type parameter " + own + ", which is no C++ name",
                             "rename the parameter");
      } else if (own == name) {
        reporter_.ReportType(id, "has a type parameter of its own name", "rename the parameter");
      } else if (!parameters.insert(own).second) {
        reporter_.ReportType(id, "has the type parameter " + own + ", as has a scope around it",
                             "rename one of the parameters");
      }
    }
    Names names;
    for (const std::string& inside : classes) {
      names.emplace(inside, "a class that capnpc-c++ declares beside it");
    }
    if (names.count(name) != 0) {
      reporter_.ReportType(
          id, "is called " + name + " in C++, as is a class that capnpc-c++ declares in it",
          kRename);
    }
    names.emplace(name, "the type around it");
    for (const std::vector<std::string>& more : {classes, hidden}) {
      for (const std::string& inside : more) {
        if (parameters.erase(inside) == 0) continue;  // Report each parameter once.
        reporter_.ReportType(id,
                             "capnpc-c++ declares a type " + inside +
                                 " in it, which hides the type parameter " + inside,
                             "rename the parameter");
      }
    }
    return names;
  }

  void CheckStruct(uint64_t id, const std::string& name, Parameters parameters) {
    std::vector<std::string> classes = {"Reader", "Builder", "Pipeline"};
    if (schema_.Find(id).getStruct().getDiscriminantCount() != 0) classes.push_back("Which");
    Names names = Enter(id, name, classes, {"Reads", "Builds", "Pipelines"}, parameters);
    CheckNested(id, names, parameters);
    Names accessors;
    Names enumerators;
    for (auto field : schema_.Find(id).getStruct().getFields()) {
      const std::string own = field.getName().cStr();
      const std::string problem = CheckField(field, accessors, enumerators);
      if (!problem.empty()) reporter_.ReportMember(id, "field", own, problem, kRename);
      if (!problem.empty() || !field.isGroup()) continue;
      const uint64_t group = field.getGroup().getTypeId();
      if (!schema_.Has(group) || schema_.ScopeOf(group) != id) continue;
      const std::string type = Capitalize(NameInCpp(field));
      const std::string taken = Declare(type, "another group", names, parameters);
      if (taken.empty()) {
        CheckStruct(group, type, parameters);
      } else {
        reporter_.ReportMember(id, "group", own, taken, kRename);
      }
    }
  }

  void CheckInterface(uint64_t id, const std::string& name, Parameters parameters) {
    std::vector<std::string> hidden = {"Calls"};
    for (auto method : schema_.Find(id).getInterface().getMethods()) {
      const std::string stem = Capitalize(NameInCpp(method));
      hidden.push_back(stem + "Context");
      for (uint64_t message : {method.getParamStructType(), method.getResultStructType()}) {
        if (!IsImplicitIn(message, id)) continue;
        const auto inside = {schema_.CppName(message), std::string("Reader"),
                             std::string("Builder"),   std::string("Pipeline"),
                             std::string("Reads"),     std::string("Builds"),
                             std::string("Pipelines")};
        hidden.insert(hidden.end(), inside);
      }
    }
    Names names = Enter(id, name, {"Client", "Server"}, hidden, parameters);
    CheckNested(id, names, parameters);
    for (auto method : schema_.Find(id).getInterface().getMethods()) {
      CheckMethod(id, method, parameters);
    }
  }

  void CheckMethod(uint64_t interface, ::capnp::schema::Method::Reader method,
                   const Parameters& parameters) {
    const std::string own = method.getName().cStr();
    const auto report = [&](const std::string& what, const char* remedy) {
      reporter_.ReportMember(interface, "method", own, what, remedy);
    };
    if (NameInCpp(method) == "internalUnimplemented") {
      report("has the name of a member of capnp::Capability::Server", kRename);
    }
    for (auto parameter : method.getImplicitParameters()) {
      const std::string name = parameter.getName().cStr();
      if (parameters.count(name) == 0) continue;
      report("has the type parameter " + name + ", as has a scope around it",
             "rename one of the parameters");
    }
    for (uint64_t message : {method.getParamStructType(), method.getResultStructType()}) {
      if (!IsImplicitIn(message, interface)) continue;
      Names accessors;
      Names enumerators;
      for (auto field : schema_.Find(message).getStruct().getFields()) {
        const std::string problem = CheckField(field, accessors, enumerators);
        if (problem.empty()) continue;
        report(std::string(schema_.FindImplicit(message)->is_results ? "result '" : "parameter '") +
                   field.getName().cStr() + "' " + problem,
               kRename);
      }
    }
  }

  // A field's accessors, and its enumerator if it is in a union; says what is wrong, or "".
  std::string CheckField(::capnp::schema::Field::Reader field, Names& accessors,
                         Names& enumerators) const {
    const std::string name = Capitalize(NameInCpp(field));
    if (!IsUsableIdentifier("get" + name)) return "is called " + name + " in C++, which cannot be";
    const std::string problem = Declare(name, "another field", accessors, {});
    // Accessors are never called as a macro: "getEOF".
    if (!problem.empty() && !IsMacro(name)) return problem;
    if (field.getDiscriminantValue() == ::capnp::schema::Field::NO_DISCRIMINANT) return "";
    return Declare(UpperCase(NameInCpp(field)), "another member of the union", enumerators, {});
  }

  void CheckEnum(uint64_t id) {
    Names names;
    for (auto enumerant : schema_.Find(id).getEnum().getEnumerants()) {
      const std::string name = UpperCase(NameInCpp(enumerant));
      const std::string problem = IsUsableIdentifier(name)
                                      ? Declare(name, "another enumerant", names, {})
                                      : "is called " + name + " in C++, which cannot be";
      if (problem.empty()) continue;
      reporter_.ReportMember(id, "enumerant", enumerant.getName().cStr(), problem, kRename);
    }
  }

  bool IsImplicitIn(uint64_t message, uint64_t interface) const {
    const ImplicitStruct* const implicit = schema_.FindImplicit(message);
    return implicit != nullptr && implicit->interface == interface;
  }

  const Schema& schema_;
  Reporter& reporter_;
};

}  // namespace

void CheckCppNames(const Schema& schema, uint64_t file, Reporter& reporter) {
  Names names;
  if (schema.CppNamespace(file).empty()) {
    for (const char* const global : {"absl", "capnp", "kj", "mi7", "std"}) {
      names.emplace(global, "a namespace that generated code uses");
    }
  }
  CppNames(schema, reporter).CheckNested(file, names, {});
}

}  // namespace mi7::codegen
