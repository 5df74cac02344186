#include <algorithm>

#include "codegen/emit.h"
#include "codegen/emit_common.h"

namespace mi7::codegen {
namespace {

void EmitMethod(const Method& method, Printer& out) {
  std::vector<std::string> types = HandlerTypes(method);
  // A comma inside a type would end the macro's argument.
  for (std::string& type : types) {
    if (type.find(',') != std::string::npos) type = "(" + type + ")";
  }
  const std::string head = "MOCK_METHOD(";
  const std::string name = "::mi7::Reply, " + method.cpp_name + ",";
  const std::string list = "(" + Join(types, ", ") + "), (override));";
  const std::string whole = head + name + " " + list;
  if (out.Fits(whole.size())) return out.Line(whole);

  const std::string first = head + name + " (" + Join(types, ", ") + "),";
  if (out.Fits(first.size())) {
    out.Line(first);
    return out.Line(std::string(head.size(), ' ') + "(override));");
  }
  size_t longest = head.size() + name.size();
  for (const std::string& type : types) {
    longest = std::max(longest, head.size() + 1 + type.size() + 2);
  }
  std::string margin(head.size(), ' ');
  if (out.Fits(longest)) {
    out.Line(head + name);
  } else {
    margin = "    ";
    out.Line(head);
    out.Line(margin + name);
  }
  if (out.Fits(margin.size() + list.size())) return out.Line(margin + list);
  out.Call(margin + "(", types, "),");
  out.Line(margin + "(override));");
}

void EmitClass(const File& file, const Interface& interface, Printer& out) {
  out.Line();
  out.Comment("For tests of what calls " + file.tables[interface.table].name + ".");
  EmitTemplateHead(interface, true, out);
  const std::string head = "class " + interface.mock;
  const std::string base = ": public " + WithArguments(interface, interface.service) + " {";
  if (out.Fits(head.size() + 1 + base.size())) {
    out.Line(head + " " + base);
  } else {
    out.Line(head);
    out.Line("    " + base);
  }
  out.Line(" public:");
  out.Indent();
  for (const Method& method : interface.methods) EmitMethod(method, out);
  out.Outdent();
  out.Line("};");
}

}  // namespace

std::string EmitMock(const File& file) {
  Printer out;
  EmitBanner(file, "Mocks of its services, for tests.", out);
  out.Line();
  out.Line("#pragma once");
  out.Line();
  if (!file.interfaces.empty()) {
    out.Line("#include <gmock/gmock.h>");
    out.Line();
  }
  out.Line("#include \"" + BaseName(OutputName(file.name, ".mi7.h")) + "\"");
  if (!file.interfaces.empty()) {
    OpenNamespace(file, out);
    for (const Interface& interface : file.interfaces) EmitClass(file, interface, out);
    CloseNamespace(file, out);
  }
  return out.Take();
}

}  // namespace mi7::codegen
