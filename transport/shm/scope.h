#pragma once

// What ShmConnection marks a thread with while it runs callbacks.

#include "transport/shm/connection.h"

namespace mi7::transport::shm {

// The peer is woken once for all that the callbacks send and make room for.
class ShmConnection::Scope final : public CallbackScope {
 public:
  explicit Scope(ShmConnection* connection) : CallbackScope(connection), owner_(connection) {}
  ~Scope() { Flush(); }

  static Scope* Of(const ShmConnection* connection) {
    return static_cast<Scope*>(CallbackScope::Of(connection));
  }

  void Sent() { sent_ = true; }
  void MadeRoom() { made_room_ = true; }

  void Flush() override {
    if ((sent_ || made_room_) && !owner_->link_->forked()) {
      owner_->WakePeer(/*only_for_room=*/!sent_);
    }
    sent_ = made_room_ = false;
  }

 private:
  ShmConnection* const owner_;
  bool sent_ = false;
  bool made_room_ = false;
};

}  // namespace mi7::transport::shm
