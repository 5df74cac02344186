#pragma once

// Reading a CodeGeneratorRequest: lookup of declarations by id, and what they are called.

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <capnp/schema.capnp.h>

namespace mi7::codegen {

using ::capnp::schema::Brand;
using ::capnp::schema::CodeGeneratorRequest;
using ::capnp::schema::Node;
using ::capnp::schema::Type;

// Ids of annotations and types with a meaning for the generator.
constexpr uint64_t kCxxNamespaceAnnotation = 0xb9c6f99ebf805f2c;  // $Cxx.namespace
constexpr uint64_t kCxxNameAnnotation = 0xf264a779fef191ce;       // $Cxx.name
constexpr uint64_t kStreamingAnnotation = 0xf8e6c4a529e8e02b;     // $Mi7.streaming
constexpr uint64_t kTimeoutAnnotation = 0xd35e516e102fab01;       // $Mi7.timeout
constexpr uint64_t kRetryableAnnotation = 0xfca296045ef6faef;     // $Mi7.retryable
constexpr uint64_t kIdempotentAnnotation = 0xc2f31c6ae1ecd4d6;    // $Mi7.idempotent
constexpr uint64_t kPriorityAnnotation = 0x8f2a6c1d94e5b370;      // $Mi7.priority
constexpr uint64_t kDeduplicateAnnotation = 0xba58983b3f1d63c4;   // $Mi7.deduplicate
constexpr uint64_t kStreamResult = 0x995f9a3377c0b16e;            // what "-> stream" returns

// The text of an annotation, or "" where it is absent.
std::string AnnotationText(::capnp::List<::capnp::schema::Annotation>::Reader annotations,
                           uint64_t annotation);
// The number of an annotation of type UInt32, or 0 where it is absent.
uint32_t AnnotationNumber(::capnp::List<::capnp::schema::Annotation>::Reader annotations,
                          uint64_t annotation);
bool HasAnnotation(::capnp::List<::capnp::schema::Annotation>::Reader annotations,
                   uint64_t annotation);

// What capnpc-c++ calls a declaration: its $Cxx.name, or its own.
template <typename T>
std::string NameInCpp(T declaration) {
  std::string renamed = AnnotationText(declaration.getAnnotations(), kCxxNameAnnotation);
  return renamed.empty() ? std::string(declaration.getName().cStr()) : renamed;
}

// What $Mi7.streaming says of a method; values are those of its enum.
enum class Streaming { kClient = 0, kServer = 1, kBidirectional = 2 };
// Nothing where the annotation is absent, or has a value that only a later mi7 knows.
std::optional<Streaming> StreamingOf(::capnp::schema::Method::Reader method);

// Whether a method is $Mi7.priority(control).
bool HasControlPriority(::capnp::schema::Method::Reader method);

// Why a node that a method refers to has no place in the scopes of the schema: it is the struct
// that Cap'n Proto makes of a parameter or result list.
struct ImplicitStruct {
  uint64_t interface = 0;
  uint16_t method = 0;
  bool is_results = false;
};

// Throws std::runtime_error: the request contradicts itself, which no compiler's does. Caught where
// the plugin begins.
[[noreturn]] void FailBrokenRequest(const std::string& what);

// An index over one request, which outlives it. Const methods are thread-safe, and fail (see
// above) where the request lacks a declaration that it refers to.
class Schema {
 public:
  explicit Schema(CodeGeneratorRequest::Reader request);

  CodeGeneratorRequest::Reader request() const { return request_; }

  Node::Reader Find(uint64_t id) const;
  bool Has(uint64_t id) const { return nodes_.count(id) != 0; }

  // nullptr where the node is no struct of a parameter or result list.
  const ImplicitStruct* FindImplicit(uint64_t id) const;

  // The enclosing declaration, an implicit struct's being its interface; 0 for a file.
  uint64_t ScopeOf(uint64_t id) const;
  // From the file (first) to the declaration itself (last).
  std::vector<uint64_t> ScopeChain(uint64_t id) const;
  uint64_t FileOf(uint64_t id) const { return ScopeChain(id).front(); }

  // "calc/calculator.capnp"
  std::string FileName(uint64_t id) const { return Find(FileOf(id)).getDisplayName().cStr(); }
  // {"calc", "v1"} for $Cxx.namespace("calc::v1").
  std::vector<std::string> CppNamespace(uint64_t file) const;
  // The declaration's own name in the schema: "Inner"; for an implicit struct, "addParams".
  std::string Name(uint64_t id) const;
  // With its scopes: "Outer.Inner".
  std::string ScopedName(uint64_t id) const;
  // What capnpc-c++ calls it, without scope.
  std::string CppName(uint64_t id) const;

  // The comment below a declaration, or below its member (method, field) of the given index. Lines
  // end in '\n'; "" where there is none.
  std::string Doc(uint64_t id) const;
  std::string MemberDoc(uint64_t id, uint32_t member) const;

 private:
  CodeGeneratorRequest::Reader request_;
  std::unordered_map<uint64_t, Node::Reader> nodes_;
  std::unordered_map<uint64_t, std::string> names_;  // of nested declarations
  std::unordered_map<uint64_t, ImplicitStruct> implicit_;
  std::unordered_map<uint64_t, Node::SourceInfo::Reader> sources_;
};

}  // namespace mi7::codegen
