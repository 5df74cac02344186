#pragma once

// What the printers of headers, sources and mocks share.

#include <string>
#include <string_view>
#include <vector>

#include "codegen/model.h"
#include "codegen/names.h"
#include "codegen/printer.h"

namespace mi7::codegen {

// The comment that opens each generated file: where it comes from, and what it is.
void EmitBanner(const File& file, std::string_view content, Printer& out);

void OpenNamespace(const File& file, Printer& out);
void CloseNamespace(const File& file, Printer& out);

// "calculator.capnp" of "calc/calculator.capnp".
std::string BaseName(const std::string& path);

// "template <typename K, typename V>"; nothing for an interface that is not generic. With
// `defaults`, as a first declaration has it.
void EmitTemplateHead(const Interface& interface, bool defaults, Printer& out);
// "CalculatorService", "StoreService<K, V>"
std::string WithArguments(const Interface& interface, const std::string& name);

bool StreamsParams(const Method& method);
bool StreamsResults(const Method& method);

// The types of a handler's arguments: context, parameters or their reader, results or their writer
// (none of `-> stream`).
std::vector<std::string> HandlerTypes(const Method& method);
// What a method of the stub returns, less its arguments: "::mi7::Request<".
std::string CallTemplate(const Method& method);
// Its arguments: the parameters and, but for `-> stream`, the results.
std::vector<std::string> CallTypes(const Method& method);

// The members of the service and the stub of an interface, defined outside their classes.
void EmitServiceBodies(const File& file, const Interface& interface, Printer& out);
void EmitStubBodies(const File& file, const Interface& interface, Printer& out);

}  // namespace mi7::codegen
