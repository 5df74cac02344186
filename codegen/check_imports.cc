#include "codegen/check_imports.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "codegen/build.h"
#include "codegen/schema_text.h"

namespace mi7::codegen {
namespace {

// A file whose header is included, however indirectly.
struct Included {
  std::string file;
  bool direct = false;
  std::vector<std::string> cpp_namespace;
  std::vector<TextDeclaration> declarations;
};

class Includes {
 public:
  Includes(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested,
           const SourceFinder& sources)
      : schema_(schema), requested_(requested), sources_(sources) {}

  // Direct imports first.
  std::vector<Included> Find() {
    seen_.insert(requested_.getId());
    for (auto import : requested_.getImports()) direct_.insert(import.getId());
    AddFromTexts();
    for (uint64_t file : KnownToTheRequest()) {
      if (seen_.insert(file).second) AddFromRequest(file);
    }
    return std::move(result_);
  }

 private:
  void AddFromTexts() {
    std::vector<Source> texts = {
        sources_.Read(requested_.getFilename().cStr(), requested_.getId())};
    for (size_t i = 0; i < texts.size(); ++i) {
      for (const std::string& name : ParseSchemaText(texts[i].text).imports) {
        Source source = sources_.Import(texts[i].path, name);
        SchemaText text = ParseSchemaText(source.text);
        if (text.id == 0 || !seen_.insert(text.id).second) continue;
        texts.push_back(std::move(source));
        AddFromText(std::move(text), name);
      }
    }
  }

  // What the request has of it counts. Of the rest, what is not clear collides with nothing here:
  // the compiler of the C++ will tell, while what is refused here cannot be used at all.
  void AddFromText(SchemaText text, const std::string& name) {
    if (!schema_.Has(text.id) && !text.cpp_namespace.has_value()) return;
    Included included = Begin(text.id, name.substr(name.find_first_not_of('/')));
    included.cpp_namespace =
        schema_.Has(text.id) ? schema_.CppNamespace(text.id) : *std::move(text.cpp_namespace);
    for (TextDeclaration& declaration : text.declarations) {
      if (const uint64_t id = FindDeclaration(text.id, declaration.name); id != 0) {
        declaration.cpp_name = JoinedCppName(schema_, id);
      }
      if (!declaration.cpp_name.empty()) included.declarations.push_back(std::move(declaration));
    }
    result_.push_back(std::move(included));
  }

  // The declaration of that name, its scopes included; 0 where the request does not have it.
  uint64_t FindDeclaration(uint64_t scope, std::string_view name) const {
    if (!schema_.Has(scope)) return 0;
    const size_t end = std::min(name.find('.'), name.size());
    for (auto nested : schema_.Find(scope).getNestedNodes()) {
      if (nested.getName().cStr() != name.substr(0, end)) continue;
      if (end != name.size()) return FindDeclaration(nested.getId(), name.substr(end + 1));
      return schema_.Has(nested.getId()) ? nested.getId() : 0;
    }
    return 0;
  }

  Included Begin(uint64_t file, const std::string& name) const {
    Included included;
    included.file = schema_.Has(file) ? schema_.FileName(file) : name;
    included.direct = direct_.count(file) != 0;
    return included;
  }

  void AddFromRequest(uint64_t file) {
    Included included = Begin(file, "");
    included.cpp_namespace = schema_.CppNamespace(file);
    for (auto nested : schema_.Find(file).getNestedNodes()) {
      const uint64_t id = nested.getId();
      if (!schema_.Has(id) || schema_.Find(id).isConst() || schema_.Find(id).isAnnotation())
        continue;
      included.declarations.push_back(
          {.name = schema_.Name(id), .cpp_name = schema_.CppName(id), .is_interface = false});
    }
    for (uint64_t id : InterfacesOf(schema_, file)) {
      included.declarations.push_back({.name = schema_.ScopedName(id),
                                       .cpp_name = JoinedCppName(schema_, id),
                                       .is_interface = true});
    }
    result_.push_back(std::move(included));
  }

  // Imports; of the others that the compiler was asked for, those that are reached; and those whose
  // interfaces are used.
  std::vector<uint64_t> KnownToTheRequest() const {
    std::vector<uint64_t> files;
    const auto add = [&](uint64_t file) {
      if (!schema_.Has(file)) return;
      if (std::find(files.begin(), files.end(), file) == files.end()) files.push_back(file);
    };
    for (auto import : requested_.getImports()) add(import.getId());
    std::set<uint64_t> asked;
    for (auto file : schema_.request().getRequestedFiles()) asked.insert(file.getId());
    for (size_t i = 0; i < files.size(); ++i) {
      for (auto file : schema_.request().getRequestedFiles()) {
        if (file.getId() != files[i]) continue;
        for (auto import : file.getImports()) add(import.getId());
      }
    }
    for (auto node : schema_.request().getNodes()) {
      if (!node.isInterface()) continue;
      const uint64_t file = schema_.FileOf(node.getId());
      if (asked.count(file) == 0) add(file);
    }
    return files;
  }

  const Schema& schema_;
  const CodeGeneratorRequest::RequestedFile::Reader requested_;
  const SourceFinder& sources_;
  std::set<uint64_t> direct_;
  std::set<uint64_t> seen_;
  std::vector<Included> result_;
};

constexpr char kRename[] =
    "rename it, give it another $Cxx.name, or put it into another $Cxx.namespace";

class Collisions {
 public:
  Collisions(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested,
             Reporter& reporter)
      : schema_(schema),
        reporter_(reporter),
        cpp_namespace_(schema.CppNamespace(requested.getId())) {
    for (auto nested : schema.Find(requested.getId()).getNestedNodes()) {
      const uint64_t id = nested.getId();
      if (schema.Has(id) && !schema.Find(id).isConst() && !schema.Find(id).isAnnotation()) {
        types_.emplace(schema.CppName(id), id);
      }
    }
    const NameScope taken = TakenNames(schema, requested);
    for (uint64_t interface : InterfacesOf(schema, requested.getId())) {
      for (const std::string& name : GeneratedNames(JoinedCppName(schema, interface))) {
        if (!taken.Has(name)) classes_.emplace(name, interface);
      }
    }
  }

  void CheckWith(const Included& included) {
    if (included.cpp_namespace.size() < cpp_namespace_.size() ||
        !std::equal(cpp_namespace_.begin(), cpp_namespace_.end(), included.cpp_namespace.begin())) {
      return;
    }
    if (included.cpp_namespace.size() > cpp_namespace_.size()) {
      const std::string& name = included.cpp_namespace[cpp_namespace_.size()];
      CheckName(name, "the namespace " + name, included);
      return;
    }
    for (const TextDeclaration& declaration : included.declarations) {
      if (declaration.is_top_level()) CheckName(declaration.cpp_name, declaration.name, included);
      if (declaration.is_interface) CheckClasses(declaration, included);
    }
  }

 private:
  // `name` is what `owner` of the included file has in C++.
  void CheckName(const std::string& name, const std::string& owner, const Included& included) {
    if (const auto found = types_.find(name); found != types_.end()) {
      reporter_.ReportType(found->second,
                           "has in C++ the name of " + owner + " of " + included.file +
                               ", which is imported, in the same namespace",
                           kRename);
    }
    if (const auto found = classes_.find(name); found != classes_.end()) {
      reporter_.ReportType(
          found->second,
          "gives a class " + name + ", which is in C++ the name of " + owner + " of " +
              included.file + ", in the same namespace",
          included.direct
              ? kRename
              : "import that file here as well, so that the class gets another name; or "
                "rename one of the two");
    }
  }

  void CheckClasses(const TextDeclaration& interface, const Included& included) {
    for (const std::string& name : GeneratedNames(interface.cpp_name)) {
      const std::string whose =
          " the interface " + interface.name + " of " + included.file + ", in the same namespace";
      if (const auto found = types_.find(name); found != types_.end()) {
        reporter_.Report(schema_.Name(found->second), reporter_.Path(found->second),
                         "has in C++ the name that mi7 gives to a class for" + whose, kRename);
      }
      if (const auto found = classes_.find(name); found != classes_.end()) {
        reporter_.ReportType(found->second, "gives a class " + name + ", as does" + whose, kRename);
      }
    }
  }

  const Schema& schema_;
  Reporter& reporter_;
  const std::vector<std::string> cpp_namespace_;
  std::map<std::string, uint64_t> types_;
  std::map<std::string, uint64_t> classes_;  // to their interface
};

}  // namespace

void CheckImports(const Schema& schema, CodeGeneratorRequest::RequestedFile::Reader requested,
                  const SourceFinder& sources, Reporter& reporter) {
  Collisions collisions(schema, requested, reporter);
  for (const Included& included : Includes(schema, requested, sources).Find()) {
    collisions.CheckWith(included);
  }
}

}  // namespace mi7::codegen
