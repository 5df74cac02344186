#include "transport/stream/stream_context.h"

#include "base/last_shared.h"

namespace mi7::transport {

std::shared_ptr<StreamContext> ShareContext(const TransportOptions& options,
                                            const StreamKind* kind) {
  static auto& shared = *new LastShared<StreamContext>;
  return shared.Get(
      [&options, kind](const StreamContext& last) {
        return last.kind == kind && last.wait == options.wait && last.limits == options.limits;
      },
      [&options, kind] { return std::make_shared<StreamContext>(options, kind); });
}

}  // namespace mi7::transport
