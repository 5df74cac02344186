#include "transport/inproc/inproc.h"

#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/mutex.h"
#include "transport/inproc/link.h"

namespace mi7::transport::inproc {
namespace {

// One side of a link, as its user holds it. Dropping it ends the connection as Close(OK) does.
class InprocConnection final : public Connection {
 public:
  InprocConnection(std::shared_ptr<Link> link, Link::Which which)
      : link_(std::move(link)), which_(which) {}
  ~InprocConnection() override { Close(absl::OkStatus()); }

  void Start(std::shared_ptr<Receiver> receiver) override {
    link_->Start(which_, std::move(receiver));
  }
  absl::StatusOr<OutgoingMessage> Reserve(size_t bytes) override {
    if (forked()) [[unlikely]]
      return ForkedError();
    return link_->Reserve(which_, bytes);
  }
  absl::Status Send(OutgoingMessage&& message) override {
    if (forked()) [[unlikely]]
      return SendForked(std::move(message));
    return link_->Send(which_, std::move(message));
  }
  bool HasRoom() override { return forked() || link_->HasRoom(which_); }
  void RequestWritable() override {
    if (!forked()) link_->RequestWritable(which_);
  }
  // What is sent is with the other side at once.
  bool Withdraw(uint32_t) override { return false; }
  void Close(absl::Status why) override {
    if (!forked()) link_->Close(which_, std::move(why));
  }
  bool Await(Completion& completion, Deadline deadline) override {
    if (forked()) return completion.done();
    return link_->Await(which_, completion, deadline);
  }
  void SetBackground(bool wanted) override {
    if (!forked()) link_->SetBackground(which_, wanted);
  }
  bool InCallback() const override { return link_->InCallback(which_); }
  ConnectionInfo info() const override { return link_->info(which_); }

 private:
  bool forked() const { return ForkGuard::generation() != made_in_; }
  [[gnu::noinline]] absl::Status SendForked(OutgoingMessage&& message) const {
    message.reset();  // taken, as by every Send
    return ForkedError();
  }
  [[gnu::noinline]] absl::Status ForkedError() const {
    return ForkGuard::Refusal(absl::StrCat("connection to ", link_->info(which_).peer));
  }

  const std::shared_ptr<Link> link_;
  const Link::Which which_;
  const uint32_t made_in_ = ForkGuard::generation();
};

// What a listener shares with the connectors that found it and with what they posted.
class Acceptor : public std::enable_shared_from_this<Acceptor> {
 public:
  Acceptor(Endpoint endpoint, std::vector<EventLoop*> loops, TransportOptions options,
           AcceptCallback on_accept)
      : endpoint_(std::move(endpoint)),
        loops_(std::move(loops)),
        options_(std::move(options)),
        on_accept_(std::move(on_accept)) {}

  const Endpoint& endpoint() const { return endpoint_; }
  // In a child of the process that listens nobody does.
  bool forked() const { return loops_[0]->forked(); }

  // The connector's end of a new link, whose other end is on its way to the accept callback.
  absl::StatusOr<std::shared_ptr<Connection>> Connect(EventLoop* loop,
                                                      const TransportOptions& options) {
    {
      MutexLock lock(&mutex_);
      if (closed_) return NobodyListens(endpoint_);
      if (connections_ < options_.limits.connections_max) return NewLink(loop, options);
    }
    absl::Status refused = absl::ResourceExhaustedError(
        absl::StrCat(endpoint_.ToString(), ": the server has limits.connections_max, ",
                     options_.limits.connections_max, ", connections"));
    if (options_.on_refused) options_.on_refused(endpoint_.ToString(), refused);
    return refused;
  }

  void Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
    const auto none = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return accepting_ == 0; };
    accepted_.WaitUntil(mutex_, Deadline::Infinite(), none);
  }

  static absl::Status NobodyListens(const Endpoint& endpoint) {
    return absl::UnavailableError(
        absl::StrCat(endpoint.ToString(), ": nobody in this process listens on that name"));
  }

 private:
  std::shared_ptr<Connection> NewLink(EventLoop* loop, const TransportOptions& options)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++connections_;
    // Close waits for it: the connector may have sent calls, which the server refuses in order.
    ++accepting_;
    std::shared_ptr<void> while_open(nullptr, [self = shared_from_this()](void*) {
      MutexLock lock(&self->mutex_);
      --self->connections_;
    });
    EventLoop* const accepting = loops_[next_loop_++ % loops_.size()];
    auto link = std::make_shared<Link>(endpoint_.ToString(),
                                       SideOptions{.loop = loop,
                                                   .limits = options.limits,
                                                   .wait = options.wait,
                                                   .accepted = false,
                                                   .while_open = nullptr},
                                       SideOptions{.loop = accepting,
                                                   .limits = options_.limits,
                                                   .wait = options_.wait,
                                                   .accepted = true,
                                                   .while_open = std::move(while_open),
                                                   .instance = options_.instance_id.Prefix()});
    // Posted under the mutex: Close comes after, and with it the end of the loop.
    accepting->Post([self = shared_from_this(), accepted = std::make_shared<InprocConnection>(
                                                    link, Link::kAcceptor)]() mutable {
      self->Accept(std::move(accepted));
    });
    return std::make_shared<InprocConnection>(std::move(link), Link::kConnector);
  }

  // On the loop of the accepted end.
  void Accept(std::shared_ptr<Connection> connection) {
    on_accept_(std::move(connection));
    MutexLock lock(&mutex_);
    if (--accepting_ == 0) accepted_.NotifyAll();
  }

  const Endpoint endpoint_;
  const std::vector<EventLoop*> loops_;
  const TransportOptions options_;
  const AcceptCallback on_accept_;
  Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int accepting_ ABSL_GUARDED_BY(mutex_) = 0;  // calls of on_accept_ that run or will run
  CondVar accepted_;                           // there is none any more
  uint32_t connections_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t next_loop_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The process's names. Never destroyed: static objects may hold listeners.
class Names {
 public:
  static Names& Get() {
    static Names& names = *new Names;
    return names;
  }
  Names() { ForkGuard::HoldAcrossFork(&mutex_); }
  bool Add(const std::shared_ptr<Acceptor>& acceptor, bool take_over) {
    MutexLock lock(&mutex_);
    auto& listed = acceptors_[acceptor->endpoint().name];
    if (listed != nullptr && !listed->forked() && !take_over) return false;
    listed = acceptor;
    return true;
  }
  // Unless another has taken the name over.
  void Remove(const std::shared_ptr<Acceptor>& acceptor) {
    MutexLock lock(&mutex_);
    const auto found = acceptors_.find(acceptor->endpoint().name);
    if (found != acceptors_.end() && found->second == acceptor) acceptors_.erase(found);
  }
  std::shared_ptr<Acceptor> Find(const std::string& name) {
    MutexLock lock(&mutex_);
    const auto found = acceptors_.find(name);
    return found == acceptors_.end() || found->second->forked() ? nullptr : found->second;
  }

 private:
  Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<Acceptor>> acceptors_ ABSL_GUARDED_BY(mutex_);
};

class InprocListener final : public Listener {
 public:
  explicit InprocListener(std::shared_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}
  ~InprocListener() override { Close(); }
  const Endpoint& endpoint() const override { return acceptor_->endpoint(); }
  void Close() override {
    // A listener that is closed may outlive its loops.
    if (!listed_ || acceptor_->forked()) return;
    listed_ = false;
    Names::Get().Remove(acceptor_);
    acceptor_->Close();
  }

 private:
  const std::shared_ptr<Acceptor> acceptor_;
  bool listed_ = true;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listen(const Endpoint& endpoint,
                                                 const std::vector<EventLoop*>& loops,
                                                 const TransportOptions& options,
                                                 AcceptCallback on_accept) {
  MI7_CHECK(endpoint.scheme == Endpoint::Scheme::kInproc, "an inproc endpoint is given");
  MI7_CHECK(!loops.empty(), "a listener has a loop");
  auto acceptor = std::make_shared<Acceptor>(endpoint, loops, options, std::move(on_accept));
  if (!Names::Get().Add(acceptor, options.take_over)) {
    return absl::AlreadyExistsError(
        absl::StrCat(endpoint.ToString(), ": this process listens on that name already"));
  }
  return std::make_unique<InprocListener>(std::move(acceptor));
}

void Connect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
             Deadline deadline, ConnectCallback done) {
  MI7_CHECK(endpoint.scheme == Endpoint::Scheme::kInproc, "an inproc endpoint is given");
  absl::StatusOr<std::shared_ptr<Connection>> connection;
  if (deadline.passed()) {
    connection = absl::DeadlineExceededError(
        absl::StrCat(endpoint.ToString(), ": the deadline passed before connecting"));
  } else if (const auto acceptor = Names::Get().Find(endpoint.name)) {
    connection = acceptor->Connect(loop, options);
  } else {
    connection = Acceptor::NobodyListens(endpoint);
  }
  loop->Post([connection = std::move(connection), done = std::move(done)]() mutable {
    done(std::move(connection));
  });
}

}  // namespace mi7::transport::inproc
