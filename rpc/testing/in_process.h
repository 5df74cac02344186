#pragma once

// InProcess: a server and a channel to it, for tests.
//
//   CalculatorImpl calculator;
//   mi7::InProcess in_process(&calculator);
//   CalculatorStub stub = in_process.stub<CalculatorStub>();
//
// The calls are real ones: encoded, dispatched and answered as everywhere, over the inproc
// transport. Any endpoint will do as well, for what depends on the transport. More helpers for
// tests are in this folder and in docs/TESTING.md.

#include <memory>
#include <string>
#include <vector>

#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/service.h"

namespace mi7 {

// A value type.
struct InProcessOptions {
  ServerOptions server = {};
  ChannelOptions channel = {};
  // Where to listen; empty: an inproc name that nobody else has.
  std::string endpoint = {};
};

// What cannot be set up ends the test program, with the reason: it is the test's mistake.
// Thread-safe but for construction and destruction.
class InProcess {
 public:
  // The services outlive it.
  explicit InProcess(Service* service, const InProcessOptions& options = {});
  explicit InProcess(const std::vector<Service*>& services, const InProcessOptions& options = {});
  // Closes the channel, so that its calls end; then shuts the server down, without waiting for
  // handlers that were deferred.
  ~InProcess();
  InProcess(const InProcess&) = delete;
  InProcess& operator=(const InProcess&) = delete;

  template <typename Stub>
  Stub stub() const {
    return Stub(channel_);
  }
  const std::shared_ptr<Channel>& channel() const { return channel_; }
  Server& server() { return *server_; }
  // Where it listens, for further channels.
  const std::string& endpoint() const { return endpoint_; }

 private:
  std::unique_ptr<Server> server_;
  std::string endpoint_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7
