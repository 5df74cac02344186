#include <algorithm>
#include <string>
#include <vector>

#include "codegen/emit.h"
#include "codegen/emit_common.h"

namespace mi7::codegen {
namespace {

// Generic interfaces have their bodies in the header, which needs their tables by name.
bool IsGeneric(const File& file, size_t table) {
  return std::any_of(file.interfaces.begin(), file.interfaces.end(),
                     [&](const Interface& interface) {
                       return interface.table == table && !interface.template_params.empty();
                     });
}

// The initializers of a method's row: the last ones only where they differ from the default.
std::vector<std::string> MethodFields(const Table& table, size_t ordinal) {
  const TableMethod& method = table.methods[ordinal];
  std::vector<std::string> fields = {".interface_id = " + Hex(table.id),
                                     ".method_id = " + std::to_string(ordinal),
                                     ".name = \"" + table.name + "." + method.name + "\""};
  if (method.kind != MethodKind::kUnary && method.kind != MethodKind::kFlow) {
    fields.push_back(std::string(".kind = ::mi7::MethodKind::") +
                     (method.kind == MethodKind::kServerStreaming   ? "kServerStreaming"
                      : method.kind == MethodKind::kClientStreaming ? "kClientStreaming"
                                                                    : "kBidirectional"));
  }
  if (method.timeout_ms != 0)
    fields.push_back(".timeout_ms = " + std::to_string(method.timeout_ms));
  if (method.repeat != Repeat::kUnlessItRan) {
    fields.push_back(std::string(".repeat = ::mi7::Repeat::") +
                     (method.repeat == Repeat::kIdempotent ? "kIdempotent" : "kRetryable"));
  }
  if (method.deduplicate) fields.push_back(".deduplicate = true");
  if (method.control) fields.push_back(".priority = ::mi7::Priority::kControl");
  return fields;
}

void EmitTable(const File& file, size_t index, Printer& out) {
  const Table& table = file.tables[index];
  const std::string name = "k" + table.symbol;
  if (!table.methods.empty()) {
    out.Line();
    out.Line("static constexpr ::mi7::MethodInfo " + name + "Methods[] = {");
    out.Indent();
    out.Indent();
    for (size_t i = 0; i < table.methods.size(); ++i) {
      const std::vector<std::string> fields = MethodFields(table, i);
      const std::string row = "{" + Join(fields, ", ") + "},";
      if (out.Fits(row.size())) {
        out.Line(row);
        continue;
      }
      for (size_t field = 0; field < fields.size(); ++field) {
        out.Line((field == 0 ? "{" : " ") + fields[field] +
                 (field + 1 == fields.size() ? "}," : ","));
      }
    }
    out.Outdent();
    out.Outdent();
    out.Line("};");
  }
  if (!table.bases.empty()) {
    out.Line();
    out.Line("static constexpr const ::mi7::InterfaceInfo* " + name + "Bases[] = {");
    for (size_t base : table.bases) out.Line("    &k" + file.tables[base].symbol + "Info,");
    out.Line("};");
  }
  out.Line();
  // Declared in the header for a generic interface, which gives it external linkage.
  const char* storage = IsGeneric(file, index) ? "constexpr" : "static constexpr";
  out.Line(storage + (" ::mi7::InterfaceInfo " + name) + "Info = {");
  out.Line("    .id = " + Hex(table.id) + ",");
  out.Line("    .name = \"" + table.name + "\",");
  out.Line("    .methods = " + (table.methods.empty() ? "nullptr" : name + "Methods") + ",");
  out.Line("    .method_count = " + std::to_string(table.methods.size()) + ",");
  out.Line("    .bases = " + (table.bases.empty() ? "nullptr" : name + "Bases") + ",");
  out.Line("    .base_count = " + std::to_string(table.bases.size()) + ",");
  out.Line("};");
}

}  // namespace

std::string EmitSource(const File& file) {
  Printer out;
  EmitBanner(file, "The tables that describe its interfaces, and thin calls into the runtime.",
             out);
  out.Line();
  out.Line("#include \"" + BaseName(OutputName(file.name, ".mi7.h")) + "\"");
  if (file.interfaces.empty()) return out.Take();

  OpenNamespace(file, out);
  for (size_t i = 0; i < file.tables.size(); ++i) EmitTable(file, i, out);
  for (const Interface& interface : file.interfaces) {
    if (!interface.template_params.empty()) continue;
    EmitServiceBodies(file, interface, out);
    EmitStubBodies(file, interface, out);
  }
  CloseNamespace(file, out);
  return out.Take();
}

}  // namespace mi7::codegen
