#include <algorithm>

#include "codegen/emit.h"
#include "codegen/emit_common.h"

namespace mi7::codegen {
namespace {

// The comment of a method: the schema's, and the declaration that it stands below there.
void EmitMethodComment(const File& file, const Interface& interface, const Method& method,
                       Printer& out) {
  if (!method.doc.empty()) {
    out.Comment(method.doc);
    out.Line("//");
  }
  const bool inherited = method.table != interface.table;
  out.Comment((inherited ? file.tables[method.table].name + "." : "") + method.signature);
  if (method.is_renamed) {
    out.Comment("(Called " + method.cpp_name + " here because the plain name is taken.)");
  }
}

// A generic interface is a template, and a message cannot hold what some arguments stand for.
void EmitArgumentChecks(const Interface& interface, Printer& out) {
  for (const std::string& name : interface.template_params) {
    out.Call("static_assert(",
             {"::capnp::kind<" + name + ">() != ::capnp::Kind::INTERFACE",
              "\"mi7 does not support interfaces in messages yet\""},
             ");");
  }
  if (!interface.template_params.empty()) out.Line();
}

void EmitClassHead(const Interface& interface, const std::string& name, const std::string& base,
                   Printer& out) {
  EmitTemplateHead(interface, true, out);
  const std::string head = "class " + name + " : public " + base + " {";
  if (head.size() <= Printer::kColumnMax) {
    out.Line(head);
  } else {
    out.Line("class " + name);
    out.Line("    : public " + base + " {");
  }
}

void EmitService(const File& file, const Interface& interface, Printer& out) {
  out.Line();
  if (!interface.doc.empty()) {
    out.Comment(interface.doc);
    out.Line("//");
  }
  out.Comment("To implement " + file.tables[interface.table].name +
              ", derive and override. What is not overridden answers UNIMPLEMENTED.");
  EmitClassHead(interface, interface.service, "::mi7::Service", out);
  out.Indent();
  EmitArgumentChecks(interface, out);
  out.Outdent();
  out.Line(" public:");
  out.Indent();
  for (const Method& method : interface.methods) {
    EmitMethodComment(file, interface, method, out);
    std::vector<std::string> arguments = HandlerTypes(method);
    arguments[0] += " context";
    arguments[1] += StreamsParams(method) ? " reader" : " params";
    if (arguments.size() > 2) arguments[2] += StreamsResults(method) ? " writer" : " results";
    out.Declaration("virtual ::mi7::Reply " + method.cpp_name + "(", arguments, ");");
    out.Line();
  }
  out.Line("static const ::mi7::InterfaceInfo& info();");
  out.Line("const ::mi7::InterfaceInfo& interface_info() const override;");
  out.Declaration("::mi7::Reply Dispatch(",
                  {"uint64_t interface_id", "uint16_t method_id", "::mi7::ServerCall& call"},
                  ") override;");
  out.Outdent();
  out.Line("};");
}

void EmitStub(const File& file, const Interface& interface, Printer& out) {
  out.Line();
  out.Comment("Calls " + file.tables[interface.table].name + " through a channel.");
  const bool has_flow =
      std::any_of(interface.methods.begin(), interface.methods.end(),
                  [](const Method& method) { return method.kind == MethodKind::kFlow; });
  const std::string base = has_flow ? "FlowStub" : "Stub";
  EmitClassHead(interface, interface.stub, "::mi7::" + base, out);
  out.Line(" public:");
  out.Indent();
  out.Line("using ::mi7::" + base + "::" + base + ";");
  for (const Method& method : interface.methods) {
    out.Line();
    EmitMethodComment(file, interface, method, out);
    out.TemplateDeclaration(CallTemplate(method), CallTypes(method), "> " + method.cpp_name + "(",
                            {"const ::mi7::CallOptions& options = ::mi7::CallOptions::Default()"},
                            ") const;");
  }
  out.Outdent();
  out.Line("};");
}

void EmitGenericBodies(const File& file, Printer& out) {
  bool first = true;
  for (const Interface& interface : file.interfaces) {
    if (interface.template_params.empty()) continue;
    if (first) {
      out.Line();
      out.Comment("The rest is how the generic classes above work.");
    }
    first = false;
    out.Line();
    out.Line("extern const ::mi7::InterfaceInfo k" + file.tables[interface.table].symbol + "Info;");
    EmitServiceBodies(file, interface, out);
    EmitStubBodies(file, interface, out);
  }
}

}  // namespace

std::string OutputName(const std::string& schema_file, const std::string& extension) {
  const std::string suffix = ".capnp";
  std::string stem = schema_file;
  if (stem.ends_with(suffix)) stem.resize(stem.size() - suffix.size());
  return stem + extension;
}

std::string EmitHeader(const File& file) {
  Printer out;
  EmitBanner(file,
             file.interfaces.empty()
                 ? "The schema declares no interface, so there is nothing here but its messages."
                 : "Each interface of the schema gives a class to implement it and a class to call "
                   "it.",
             out);
  out.Line();
  out.Line("#pragma once");
  out.Line();
  std::vector<std::string> includes = {BaseName(file.name) + ".h"};
  if (!file.interfaces.empty()) includes.push_back("rpc/generated.h");
  std::sort(includes.begin(), includes.end());
  for (const std::string& include : includes) out.Line("#include \"" + include + "\"");
  if (!file.interfaces.empty()) {
    OpenNamespace(file, out);
    if (!file.doc.empty()) {
      out.Line();
      out.Comment(file.doc);
    }
    for (const Interface& interface : file.interfaces) {
      EmitService(file, interface, out);
      EmitStub(file, interface, out);
    }
    EmitGenericBodies(file, out);
    CloseNamespace(file, out);
  }
  return out.Take();
}

}  // namespace mi7::codegen
