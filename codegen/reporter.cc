#include "codegen/reporter.h"

#include "codegen/schema_text.h"
#include "codegen/source_lines.h"

namespace mi7::codegen {
namespace {

std::string KindOf(Node::Reader node) {
  switch (node.which()) {
    case Node::STRUCT:
      return node.getStruct().getIsGroup() ? "group " : "struct ";
    case Node::ENUM:
      return "enum ";
    case Node::INTERFACE:
      return "interface ";
    case Node::CONST:
      return "constant ";
    default:
      return "";
  }
}

}  // namespace

void Reporter::Report(const std::string& subject, std::vector<std::string> declaration,
                      std::string what, std::string remedy) {
  int line = 0;
  for (; line == 0 && !declaration.empty(); declaration.pop_back()) {
    line = FindDeclaration(text_, declaration);
  }
  Add(line, subject, std::move(what), std::move(remedy));
}

void Reporter::ReportNamespace(std::string what, std::string remedy) {
  Add(ParseSchemaText(text_).cpp_namespace_line, "$Cxx.namespace", std::move(what),
      std::move(remedy));
}

void Reporter::ReportType(uint64_t id, std::string what, std::string remedy) {
  Report(KindOf(schema_.Find(id)) + schema_.ScopedName(id), Path(id), std::move(what),
         std::move(remedy));
}

void Reporter::ReportMember(uint64_t id, const std::string& kind, const std::string& name,
                            std::string what, std::string remedy) {
  std::vector<std::string> path = Path(id);
  path.push_back(name);
  const std::string scope = schema_.ScopedName(id);
  Report(kind + " " + (scope.empty() ? "" : scope + ".") + name, path, std::move(what),
         std::move(remedy));
}

void Reporter::Add(int line, const std::string& subject, std::string what, std::string remedy) {
  problems_.push_back({.file = file_,
                       .line = line,
                       .subject = subject,
                       .what = std::move(what),
                       .remedy = std::move(remedy)});
}

std::vector<std::string> Reporter::Path(uint64_t id) const {
  std::vector<std::string> path;
  const std::vector<uint64_t> chain = schema_.ScopeChain(id);
  for (size_t i = 1; i < chain.size(); ++i) path.push_back(schema_.Name(chain[i]));
  return path;
}

}  // namespace mi7::codegen
