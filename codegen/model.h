#pragma once

// What the generator knows about a schema file once Cap'n Proto's own model has been read: plain
// values, names already decided, ready to be printed. `BuildFile` (build.h) makes it, `CheckFile`
// (check.h) refuses what cannot be supported, and emit.h prints it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mi7::codegen {

// A C++ type as generated code spells it.
struct CppType {
  std::string name = "::capnp::AnyPointer";
  bool dependent = false;  // A template parameter occurs in it.
  bool member = false;     // It is a member of a dependent type.

  // The type itself: with `typename` where C++ asks for it.
  std::string Spelled() const { return member ? "typename " + name : name; }
  // A type inside it: "Reader" or "Builder".
  std::string Member(const std::string& inner) const {
    return (dependent ? "typename " : "") + name + "::" + inner;
  }
};

// Whether a call of a method may be repeated, as mi7::Repeat has it.
enum class Repeat { kUnlessItRan, kRetryable, kIdempotent };

// Which of a method's messages are streams. kFlow: `-> stream`, a unary one whose calls are.
enum class MethodKind { kUnary, kServerStreaming, kClientStreaming, kBidirectional, kFlow };

// What the description of an interface says of one of its own methods.
struct TableMethod {
  std::string name;  // As in the schema.
  MethodKind kind = MethodKind::kUnary;
  uint32_t timeout_ms = 0;  // $Mi7.timeout; 0: none
  Repeat repeat = Repeat::kUnlessItRan;
  bool deduplicate = false;
  bool control = false;  // $Mi7.priority(control)
};

// The description of one interface, as the runtime sees it (mi7::InterfaceInfo). A source file
// holds one for each of its interfaces and for each interface of another file that these extend, so
// that generated code links without the generated code of the files it imports.
struct Table {
  uint64_t id = 0;
  std::string name;    // "Outer.Inner": what appears in errors and on the command line.
  std::string symbol;  // "Outer_Inner": kOuter_InnerInfo and so on are named after it.
  std::vector<TableMethod> methods;  // By ordinal.
  std::vector<size_t> bases;         // Direct superclasses: indices of File::tables.
};

// One method of an interface, its own or inherited.
struct Method {
  size_t table = 0;  // The interface that declares it: index of File::tables.
  uint16_t ordinal = 0;
  // From the interface that offers the method to the one that declares it: indices of `bases`.
  std::vector<size_t> base_path;
  std::string cpp_name;     // "Add"
  bool is_renamed = false;  // That is not the schema's name, which is taken.
  MethodKind kind = MethodKind::kUnary;
  std::string doc;        // The schema's comment; lines end in '\n'.
  std::string signature;  // "add @0 (a :Int64, b :Int64) -> (sum :Int64)"
  CppType params;         // As seen from inside the generated classes.
  CppType results;
};

// An interface of the file, and the classes that it gives.
struct Interface {
  size_t table = 0;  // Index of File::tables.
  std::string doc;
  std::string service;                       // "CalculatorService"
  std::string stub;                          // "CalculatorStub"
  std::string mock;                          // "MockCalculatorService"
  std::vector<std::string> template_params;  // Empty unless generic.
  std::vector<Method> methods;               // Its own first, then what it inherits.
};

// A schema file.
struct File {
  uint64_t id = 0;
  std::string name;  // As on the command line, less the prefix: "calc/calculator.capnp".
  std::string doc;
  std::vector<std::string> cpp_namespace;
  std::vector<Table> tables;  // A base stands before what extends it.
  std::vector<Interface> interfaces;
};

}  // namespace mi7::codegen
