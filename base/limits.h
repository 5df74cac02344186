#pragma once

// Every limit of mi7 that can be set, with its default, in one place. What a handshake reads is
// bounded in transport/handshake.h, names and paths are in transport/endpoint.cc. A limit is a
// promise in two directions: what a peer can make us spend at most, and what a user can count on.
// Exceeding one gives RESOURCE_EXHAUSTED (or INVALID_ARGUMENT for a malformed message) with the
// limit's name and value.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace mi7 {

// What a server or a channel keeps, and holds its peers to. A value type.
struct Limits {
  // Bytes of one message as it travels: header, extra and body. Checked by the sender before a
  // byte is written and by the receiver before anything is allocated.
  uint32_t message_bytes_max = 64u << 20;
  // Bytes of the optional part of a message (metadata, error details, ...).
  uint32_t extra_bytes_max = 64u << 10;
  // Entries of one list of metadata: of a call, or each of the initial and the trailing one of its
  // return.
  uint32_t metadata_entries_max = 128;
  // Typed details of one status.
  uint32_t error_details_max = 32;
  // Segments of one Cap'n Proto message.
  uint32_t segments_max = 512;
  // Nesting of pointers in a message.
  uint32_t nesting_max = 64;
  // Words a reader may traverse: this factor times the words of the message, plus the constant.
  // Bounds what a small hostile message with overlapping pointers can make us read: with the
  // constant about a millisecond. Cap'n Proto counts a list's words each time its pointer is
  // followed, so honest code that calls a list's getter in a loop needs much more than the
  // message's size. Small messages without such pointers are not counted at all.
  uint32_t traversal_factor = 8;
  uint32_t traversal_words_extra = 1u << 20;
  // Connections that one endpoint of a server accepts at a time; one more is closed at once.
  uint32_t connections_max = 100'000;
  // Calls in flight on one connection, each direction. A call that was cancelled counts until its
  // handler has ended, so opening and cancelling calls in a loop starts no more handlers than this.
  uint32_t calls_in_flight_max = 65'536;
  // Bytes of the requests, headers included, of calls in flight on one connection whose handlers
  // answer later: what calls can make a server keep for one peer. `-> stream` calls are calls: so
  // much a client that respects no window can make it keep. A call that comes beyond it is refused
  // with advice when to come again; of control priority when it exceeds it by more than
  // kControlBytesReserved. At least message_bytes_max. A call holds more memory than its request
  // has bytes: a small one 8 KiB, with what its answer is built in, so that 65,536 of them, which
  // calls_in_flight_max admits, hold 550 MiB.
  uint64_t request_bytes_max = 256u << 20;
  // Time a new connection has to complete its handshake.
  absl::Duration handshake_timeout = absl::Seconds(10);
  // Bytes accepted for sending on one connection and not yet handed to the system. At this mark a
  // server stops reading from that peer, and a client's new call fails. One message larger than
  // this is still sent when the queue is empty, and answers to calls that a server has read wait
  // all the same. A message lies in a block of 4 KiB at least: so many that their blocks are as
  // much, 16,384, reach the mark, too.
  uint64_t queued_bytes_max = 64u << 20;
  // So many bytes of such answers, counted likewise: deferred calls, up to calls_in_flight_max of
  // them, are answered whether the peer reads or not. At this mark results become an error, for
  // which there is room. Below queued_bytes_max it is that.
  uint64_t unread_answer_bytes_max = 256u << 20;
  // At this mark of queued bytes the streams of a connection wait with further messages, so that a
  // call that is made meanwhile is not behind more. More than queued_bytes_max counts as that.
  uint64_t stream_queued_bytes_max = 1u << 20;
  // Bytes of messages, headers included, that this end accepts on one stream before its user has
  // taken them: what a stream can make us keep is this and one message. Told in Hello. What a
  // distant peer sends on one stream in a round trip is at most this.
  uint32_t stream_window_bytes = 256u << 10;
  // Frames that serve nothing which a peer may send within kStrayPeriod: pings, pongs,
  // cancellations of calls that are not in flight, frames of streams that are not open, or of a
  // direction that a stream does not have, credit in crumbs. Honest peers send some, as things
  // cross on the way; what they had credit for when their stream ended does not count. One that
  // sends more is closed with RESOURCE_EXHAUSTED.
  uint32_t stray_frames_max = 1'000'000;
  // Bytes of messages, headers included, that this end keeps of all streams of one connection
  // together, whatever their number, until their users take them. A message that comes when so much
  // is kept already ends its own stream with RESOURCE_EXHAUSTED. Streams whose users keep up never
  // come near it.
  uint32_t stream_kept_bytes_max = 64u << 20;
  // How long a peer may take none of our queued bytes before its connection is closed. One that
  // reads slowly is not closed. Not within a process (inproc), where the other limits bound it.
  absl::Duration write_stall_timeout = absl::Seconds(60);
  // How long a message may take to arrive, from its first bytes on: this, and the time that its
  // size takes at message_arrival_bytes_per_second_min. A peer that stops inside a message, or
  // sends it more slowly, keeps a connection and the memory of what came for no longer: it is
  // closed with RESOURCE_EXHAUSTED. Infinite: there is no such limit. Byte streams only: of a
  // message in shared memory nothing is seen before it is complete.
  absl::Duration message_arrival_timeout = absl::Seconds(60);
  uint32_t message_arrival_bytes_per_second_min = 64u << 10;

  friend bool operator==(const Limits&, const Limits&) = default;
};

// How an end of a connection finds out that the other one is gone without a word: its host has
// crashed or was cut off, or its process does nothing any more (ChannelOptions::keepalive,
// ServerOptions::keepalive). Both ends do it, each by its own settings. A value type.
//
// While calls are in flight and nothing has arrived for `interval`, a Ping is sent; when nothing
// has arrived for another `timeout`, the connection ends with UNAVAILABLE. Both are kept to within
// a quarter of the shorter one. Where no calls are in flight nothing is sent and no time is spent:
// there the system's probes notice a host that is gone (TCP, after about a minute), and a call that
// is made on such a connection finds it out like any other.
//
// The defaults notice a lost peer within 45 s: before Limits::write_stall_timeout, and with less
// silence than firewalls and NAT bear (RFC 5382 asks for two hours, some forget after 30 s). They
// cost a waiting connection 64 bytes every 20 s.
struct Keepalive {
  // Infinite: no keepalive.
  absl::Duration interval = absl::Seconds(20);
  absl::Duration timeout = absl::Seconds(20);
  // Also over transports within this machine (shm, unix, inproc). The system tells there when the
  // peer's process ends, so that only one that hangs, or was stopped, is left to be found; and it
  // may be a person with a debugger who has stopped it.
  bool on_this_machine = false;

  bool enabled() const { return interval != absl::InfiniteDuration(); }
  friend bool operator==(const Keepalive&, const Keepalive&) = default;
};

// How many times longer than the shortest of its times another one may be.
inline constexpr int kKeepaliveSpanMost = 4000;

// OK when both times, and `idle_timeout`, are longer than 0 and none is more than
// kKeepaliveSpanMost times longer than another; else INVALID_ARGUMENT naming the one that is wrong.
absl::Status CheckKeepalive(const Keepalive& keepalive, absl::Duration idle_timeout);

// So many calls of methods with control priority ($Mi7.priority(control)) may be in flight on one
// connection beyond Limits::calls_in_flight_max: a health check is answered where everything else
// is refused.
inline constexpr uint32_t kControlCallsReserved = 64;
// And so many bytes of their requests beyond Limits::request_bytes_max.
inline constexpr uint64_t kControlBytesReserved = 1u << 20;

// What one method may have in flight in a server, of at least one of the two. A value type.
struct MethodLoadLimit {
  std::string method;      // as the schema has it, "Store.scan"
  uint32_t calls_max = 0;  // calls; 0: no limit
  uint64_t bytes_max = 0;  // bytes of their requests, as LoadLimits counts them; 0: no limit
  friend bool operator==(const MethodLoadLimit&, const MethodLoadLimit&) = default;
};

// A limit on the calls in flight in a server that follows what the server is able to do
// (rpc/gradient_limit.h). A value type.
struct AdaptiveLimit {
  bool enabled = false;
  uint32_t calls_initial = 32;
  uint32_t calls_min = 4;
  uint32_t calls_max = 4096;
  // How many times the long-term latency the short-term latency may be before the limit sinks.
  double tolerance = 1.5;
  // How much of each change is made, 0 to 1.
  double smoothing = 0.2;
  // Windows of which the long-term latency is an average. After so many with overload it is
  // measured anew, with a quarter of the calls.
  uint32_t long_windows = 600;
  // What one short-term latency is the minimum of: calls of at least so long a time, and so many.
  absl::Duration window = absl::Milliseconds(100);
  uint32_t window_calls_min = 10;
  friend bool operator==(const AdaptiveLimit&, const AdaptiveLimit&) = default;
};

// How much a server takes on at a time (ServerOptions::load). What exceeds it is refused with
// RESOURCE_EXHAUSTED and advice when to come again (rpc/retry_info.h), before its parameters are
// parsed. A call is in flight until its handler has answered or dropped it, whatever became of its
// caller. By default none of these limits is set, and then nothing is counted. A value type.
struct LoadLimits {
  // Calls in flight in the server; 0: no limit. Limits::calls_in_flight_max is a connection's.
  uint32_t calls_max = 0;
  // Bytes of the requests of calls in flight, in the server and of one connection; 0: no limit. A
  // stream of parameters counts with its whole window (Limits::stream_window_bytes).
  uint64_t bytes_max = 0;
  uint64_t connection_bytes_max = 0;
  // Of single methods.
  std::vector<MethodLoadLimit> methods = {};
  AdaptiveLimit adaptive = {};
  // Methods that have control priority besides those whose schema says so.
  std::vector<std::string> control_methods = {};
  // Calls of such methods in flight in the server. They count for no other limit but their own
  // method's.
  uint32_t control_calls_max = 64;
  // What callers that are refused are told to wait.
  absl::Duration retry_after = absl::Milliseconds(50);

  // Whether any limit is set.
  bool any() const {
    return calls_max != 0 || bytes_max != 0 || connection_bytes_max != 0 || !methods.empty() ||
           !control_methods.empty() || adaptive.enabled;
  }
  friend bool operator==(const LoadLimits&, const LoadLimits&) = default;
};

// OK when `limits` make sense; else INVALID_ARGUMENT naming what is wrong. Which methods there are
// is the server's to check.
absl::Status CheckLoadLimits(const LoadLimits& limits);

// What Limits::stray_frames_max is counted in.
inline constexpr absl::Duration kStrayPeriod = absl::Seconds(10);

// Queued bytes at which streams wait.
constexpr uint64_t StreamMark(const Limits& limits) {
  return limits.stream_queued_bytes_max < limits.queued_bytes_max ? limits.stream_queued_bytes_max
                                                                  : limits.queued_bytes_max;
}

// OK when `limits` make sense together; else INVALID_ARGUMENT naming the limit, its value and what
// it must be. Channel::Create and ServerBuilder::Start check theirs.
absl::Status CheckLimits(const Limits& limits);

// The default ones do.
static_assert(Limits{}.extra_bytes_max < Limits{}.message_bytes_max);
static_assert(Limits{}.message_bytes_max % 8 == 0);
static_assert(Limits{}.queued_bytes_max >= Limits{}.message_bytes_max);
static_assert(Limits{}.request_bytes_max >= Limits{}.message_bytes_max);
static_assert(Limits{}.request_bytes_max >= Limits{}.stream_window_bytes);
static_assert(Limits{}.queued_bytes_max >= Limits{}.stream_queued_bytes_max);
static_assert(Limits{}.stream_queued_bytes_max >= Limits{}.stream_window_bytes);
static_assert(Limits{}.stream_kept_bytes_max >= Limits{}.stream_window_bytes);

}  // namespace mi7
