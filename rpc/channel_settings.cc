#include "rpc/channel_settings.h"

#include "base/last_shared.h"
#include "rpc/channel.h"
#include "rpc/liveness_watch.h"

namespace mi7 {

std::shared_ptr<const ChannelSettings> ShareSettings(const ChannelOptions& options) {
  static auto& shared = *new LastShared<const ChannelSettings>;
  return shared.Get(
      [&options](const ChannelSettings& last) {
        return last.session.limits == options.limits && last.wait == options.wait &&
               last.loop == options.event_loop && last.keepalive == options.keepalive &&
               last.idle_timeout == options.idle_timeout &&
               last.connect_timeout == options.connect_timeout &&
               last.default_timeout == options.default_timeout && last.retry == options.retry &&
               last.backoff == options.backoff && *last.local == options.local &&
               last.interceptors == options.interceptors && last.decorator == options.decorator;
      },
      [&options] {
        return std::make_shared<const ChannelSettings>(ChannelSettings{
            .session = {.limits = options.limits,
                        .dispatcher = nullptr,
                        .dispatcher_owner = nullptr,
                        .interceptors = {},
                        .liveness = LivenessWatch::Create(options.event_loop, options.keepalive,
                                                          options.idle_timeout)},
            .wait = options.wait,
            .loop = options.event_loop,
            .keepalive = options.keepalive,
            .idle_timeout = options.idle_timeout,
            .connect_timeout = options.connect_timeout,
            .default_timeout = options.default_timeout,
            .retry = options.retry,
            .backoff = options.backoff,
            .local = transport::ShareLocalOptions(options.local),
            .interceptors = options.interceptors,
            .decorator = options.decorator});
      },
      /*owner=*/options.event_loop);
}

}  // namespace mi7
