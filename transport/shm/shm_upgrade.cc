#include "transport/shm/shm_upgrade.h"

#include <unistd.h>

#include <utility>

#include "base/last_shared.h"
#include "transport/shm/half.h"
#include "transport/shm/shm_connection.h"
#include "transport/stream/stream_upgrade.h"
#include "transport/unix/unix_kind.h"

namespace mi7::transport {
namespace {

// What the upgrades of one listener or connector share.
struct Common {
  std::function<bool(const PeerCredentials&)> trusts;
  std::shared_ptr<const ShmOptions> memory;
  std::shared_ptr<const TransportOptions> options;
  std::string endpoint;
};

// What a connection needs of `options`, shared with those made just before with equal ones.
std::shared_ptr<const TransportOptions> ShareOptions(const TransportOptions& options) {
  static auto& shared = *new LastShared<const TransportOptions>;
  return shared.Get(
      [&options](const TransportOptions& last) {
        return last.limits == options.limits && last.wait == options.wait;
      },
      [&options] {
        TransportOptions kept;
        kept.limits = options.limits;
        kept.wait = options.wait;
        return std::make_shared<const TransportOptions>(std::move(kept));
      });
}

class Upgrade final : public StreamUpgrade {
 public:
  explicit Upgrade(std::shared_ptr<const Common> common) : common_(std::move(common)) {}

  absl::StatusOr<int> Offer() override {
    absl::StatusOr<shm::LocalHalf> mine = shm::LocalHalf::Create(common_->memory);
    if (!mine.ok()) return mine.status();
    mine_ = *std::move(mine);
    return mine_.descriptor();
  }

  absl::Status Verify(UniqueFd theirs) override {
    absl::StatusOr<shm::PeerHalf> half = shm::PeerHalf::Verify(std::move(theirs), *common_->memory);
    if (!half.ok()) return half.status();
    theirs_ = *std::move(half);
    return absl::OkStatus();
  }

  std::shared_ptr<Connection> Make(Made made) override {
    mine_.CloseDescriptor();  // the peer has it
    const absl::StatusOr<PeerCredentials> peer = ReadPeerCredentials(made.socket.get());
    const PeerCredentials known = peer.ok() ? *peer : PeerCredentials();
    const bool trusted =
        peer.ok() && (common_->trusts ? common_->trusts(known) : known.uid == ::geteuid());
    const std::string process = made.accepted ? ProcessText("shm", known.pid, known.uid)
                                              : ProcessText("shm", ::getpid(), ::geteuid());
    return MakeShmConnection({.options = common_->options,
                              .loop = made.loop,
                              .socket = std::move(made.socket),
                              .mine = std::move(mine_),
                              .theirs = std::move(theirs_),
                              .negotiated = made.negotiated,
                              .accepted = made.accepted,
                              .trusted = trusted,
                              .peer = made.accepted ? process : common_->endpoint,
                              .local = made.accepted ? common_->endpoint : process,
                              .while_open = std::move(made.while_open)});
  }

 private:
  const std::shared_ptr<const Common> common_;
  shm::LocalHalf mine_;
  shm::PeerHalf theirs_;
};

}  // namespace

std::function<std::unique_ptr<StreamUpgrade>()> ShmUpgrades(const ShmTerms& terms,
                                                            const TransportOptions& options,
                                                            std::string endpoint) {
  auto common = std::make_shared<const Common>(Common{.trusts = terms.trusts,
                                                      .memory = terms.memory,
                                                      .options = ShareOptions(options),
                                                      .endpoint = std::move(endpoint)});
  return [common = std::move(common)] { return std::make_unique<Upgrade>(common); };
}

}  // namespace mi7::transport
