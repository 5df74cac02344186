#pragma once

// Collects what is wrong with one schema file, and finds the lines.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "codegen/problem.h"
#include "codegen/schema.h"

namespace mi7::codegen {

// Not thread-safe. The schema outlives it.
class Reporter {
 public:
  // `text`: of the schema `file`; "" where it is not known, and no line is then.
  Reporter(const Schema& schema, std::string file, std::string text)
      : schema_(schema), file_(std::move(file)), text_(std::move(text)) {}

  // `declaration`: {"Outer", "Inner", "method"}. The line is its own, or that of the innermost
  // scope around it that is found.
  void Report(const std::string& subject, std::vector<std::string> declaration, std::string what,
              std::string remedy);

  // Of the file's $Cxx.namespace.
  void ReportNamespace(std::string what, std::string remedy);
  // Of a type that the file declares: "struct Outer.Inner: ...".
  void ReportType(uint64_t id, std::string what, std::string remedy);
  // Of its field, enumerant or constant: "field Outer.Inner.name: ...".
  void ReportMember(uint64_t id, const std::string& kind, const std::string& name, std::string what,
                    std::string remedy);

  // {"Outer", "Inner"}
  std::vector<std::string> Path(uint64_t id) const;

  std::vector<Problem> Take() { return std::move(problems_); }
  size_t count() const { return problems_.size(); }

 private:
  void Add(int line, const std::string& subject, std::string what, std::string remedy);

  const Schema& schema_;
  const std::string file_;
  const std::string text_;
  std::vector<Problem> problems_;
};

}  // namespace mi7::codegen
