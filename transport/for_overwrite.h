#pragma once

// InitForOverwrite: Data, Text and lists of numbers that their maker writes as a whole, in memory
// that is not cleared before.
//
// Cap'n Proto wants the memory in which it builds to be zero, so mi7 clears what a message used
// before another one is built there: 1 MiB takes 10 to 20 us. For content that is written as a
// whole that is done in vain, and std::make_unique_for_overwrite is the model for leaving it out.

#include <type_traits>
#include <utility>

#include <capnp/blob.h>
#include <capnp/list.h>

namespace mi7 {
namespace transport {

// While it lives, this thread allocates for content that is written as a whole. Nests.
class ForOverwrite {
 public:
  ForOverwrite() : outer_(std::exchange(wanted_, true)) {}
  ForOverwrite(const ForOverwrite&) = delete;
  ForOverwrite& operator=(const ForOverwrite&) = delete;
  ~ForOverwrite() { wanted_ = outer_; }

  // Asked by the messages whose memory it is.
  static bool wanted() { return wanted_; }

 private:
  static constinit inline thread_local bool wanted_ = false;
  const bool outer_;
};

// Whether it builds bytes or numbers, and nothing that refers to anything.
template <typename T>
inline constexpr bool kIsFlatList = false;
template <typename T>
inline constexpr bool kIsFlatList<capnp::List<T, capnp::Kind::PRIMITIVE>> = true;
template <typename T>
inline constexpr bool kIsFlatList<capnp::List<T, capnp::Kind::ENUM>> = true;

template <typename Builder>
inline constexpr bool kIsFlat = false;
template <>
inline constexpr bool kIsFlat<capnp::Data::Builder> = true;
template <>
inline constexpr bool kIsFlat<capnp::Text::Builder> = true;
template <typename Builder>
requires requires { typename Builder::Builds; }
inline constexpr bool kIsFlat<Builder> = kIsFlatList<typename Builder::Builds>;

}  // namespace transport

// Calls a method of a Cap'n Proto builder that makes one Data, Text or list of numbers, and gives
// what it gives. Its memory may have content of earlier messages, of this connection's and, over
// sockets, of any other in this process: the caller writes *all* of it before the message is sent.
// What is not written is told to the peer. The padding behind it, and Text's last byte, are zero.
//
//   auto data = mi7::InitForOverwrite(*request, &Upload::UploadParams::Builder::initData, bytes);
//   file.Read(data.begin(), data.size());
//
// Pays from some 10 kB on. What fits into the message's first segment (3 KiB of a heap message) is
// zero all the same, as is what lies in memory that is not mi7's: a MallocMessageBuilder, the slot
// of a slot pipe. Each object has a segment of its own, of which a message may have
// Limits::segments_max.
template <typename Builder, typename Made, typename Class, typename... Args>
requires(transport::kIsFlat<Made>) Made
    InitForOverwrite(Builder&& builder, Made (Class::*init)(Args...),
                     std::type_identity_t<Args>... args) {
  const transport::ForOverwrite scope;
  return (builder.*init)(args...);
}

}  // namespace mi7
