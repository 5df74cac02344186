#pragma once

// What most calls do without, kept apart so that they pay one null pointer for all of it.

#include <memory>

#include "absl/status/status.h"
#include "rpc/call_options.h"
#include "rpc/metadata.h"
#include "rpc/metadata_codec.h"

namespace mi7 {

// Of a call on the side that makes it.
struct ClientCallExtras {
  // Those that are not plain; ClientCall has the others.
  CallOptions options;
};

// Of a call on the side that answers it.
struct ServerCallExtras {
  CallExtra received;
  ResponseMetadata response;
};

}  // namespace mi7
