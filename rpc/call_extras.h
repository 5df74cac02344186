#pragma once

// What most calls do without, kept apart so that they pay one null pointer for all of it.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>

#include "rpc/call_options.h"
#include "rpc/client_interception.h"
#include "rpc/load_control.h"
#include "rpc/metadata.h"
#include "rpc/metadata_codec.h"
#include "rpc/saved_answers.h"
#include "rpc/server_interception.h"

namespace mi7 {

// Of a call on the side that makes it.
struct ClientCallExtras {
  explicit ClientCallExtras(const CallOptions& of_call) : options(of_call) {}

  // Those that are not plain; ClientCall has the others.
  CallOptions options;
  // What the return brought.
  ResponseMetadata response;
  // Where the channel has interceptors.
  std::optional<ClientInterception> interception;
  uint64_t intercepted_bytes = 0;  // ClientCall::intercepted_bytes
  // Of the call of which this is a further attempt (CallRepeats).
  uint32_t previous_attempts = 0;
  // When that call began, if an attempt at it may have run; 0: none. MonotonicNanos.
  int64_t may_have_run_since_ns = 0;
  // That is in order only because the server recognizes it: the one where that attempt may have run
  // (Negotiated::peer_instance), and no other.
  bool needs_recognition = false;
  uint64_t recognized_by = 0;
  // Of one in a series: how often the channel had moved when those before it were sent; where it
  // has moved since then the attempt fails.
  std::optional<uint32_t> series_moves;
};

// Of a call on the side that answers it.
struct ServerCallExtras {
  CallExtra received;
  int64_t arrived_ns = 0;  // by when; of calls with a request id
  ResponseMetadata response;
  bool initial_is_sent = false;  // with the first message of a stream
  // Where the server limits what it takes on.
  LoadControl::Share load;
  // What it is in its server's SavedAnswers, while its handler runs; nullptr: nothing.
  std::shared_ptr<SavedAnswers::Entry> running;
  // While it waits for the answer to the same call: makes it let go when its caller gives up.
  // Written before the last reference is given back, which destroys it.
  std::unique_ptr<std::stop_callback<std::function<void()>>> on_given_up;
  // The answer promises that the call has not run (ErrorInfo.refused).
  bool refused = false;
  // Where the server has interceptors.
  std::optional<ServerInterception> interception;
};

}  // namespace mi7
