#pragma once

// What the subject "mi7" serves.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bench/harness/workload.h"
#include "bench/subjects/data_bytes.h"
#include "bench/subjects/echo.mi7.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/payload.h"
#include "bench/subjects/stream_tally.h"
#include "rpc/service.h"

namespace mi7::bench {

// The service of echo.capnp, answering inline.
class EchoImpl : public EchoService {
 public:
  Reply Echo(ServerContext&, ::mi7::bench::Echo::EchoParams::Reader params,
             ::mi7::bench::Echo::EchoResults::Builder results) override {
    results.setValue(params.getValue());
    return absl::OkStatus();
  }

  Reply Load(ServerContext&, ::mi7::bench::Echo::LoadParams::Reader params,
             ::mi7::bench::Echo::LoadResults::Builder results) override {
    if (params.getRead()) {
      const capnp::Data::Reader data = params.getData();
      results.setSum(SumPayload(
          {reinterpret_cast<const uint64_t*>(data.begin()), data.size() / sizeof(uint64_t)}));
    }
    return absl::OkStatus();
  }

  Reply Reflect(ServerContext&, ::mi7::bench::Echo::ReflectParams::Reader params,
                ::mi7::bench::Echo::ReflectResults::Builder results) override {
    CopyData(results, params.getData());
    return absl::OkStatus();
  }
};

// The sink of echo.capnp, its streams as coroutines. For one caller at a time.
class SinkImpl final : public SinkService {
 public:
  Reply Upload(ServerContext&, StreamReader<Sink::UploadParams> reader,
               Sink::Tally::Builder results) override {
    StreamTally tally;
    for (;;) {
      const auto message = co_await reader.Read();
      if (!message.ok()) co_return message.status();
      if (!message->has_value()) break;
      tally.Add(ToBytes((*message)->getData()));
    }
    Tell(tally, results);
    co_return absl::OkStatus();
  }

  Reply Pour(ServerContext&, Sink::PourParams::Reader params) override {
    poured_.Add(ToBytes(params.getData()));
    return absl::OkStatus();
  }

  Reply Drain(ServerContext&, Sink::DrainParams::Reader, Sink::Tally::Builder results) override {
    Tell(std::exchange(poured_, {}), results);
    return absl::OkStatus();
  }

  Reply Download(ServerContext&, Sink::DownloadParams::Reader params,
                 StreamWriter<Sink::DownloadResults> writer) override {
    if (params.getBytes() < sizeof(uint64_t)) co_return absl::InvalidArgumentError("too small");
    EchoBytes bytes(Workload{.payload_bytes = params.getBytes()});
    for (;;) {
      auto message = writer.NewMessage();
      CopyData(*message, ToData(bytes.Next()));
      absl::Status sent = co_await writer.Write(std::move(message));
      if (!sent.ok()) co_return sent;
    }
  }

  Reply Chat(ServerContext&, StreamReader<Sink::ChatParams> reader,
             StreamWriter<Sink::ChatResults> writer) override {
    for (;;) {
      const auto message = co_await reader.Read();
      if (!message.ok()) co_return message.status();
      if (!message->has_value()) break;
      auto answer = writer.NewMessage();
      CopyData(*answer, (*message)->getData());
      absl::Status sent = co_await writer.Write(std::move(answer));
      if (!sent.ok()) co_return sent;
    }
    co_return absl::OkStatus();
  }

 private:
  static void Tell(const StreamTally& tally, Sink::Tally::Builder results) {
    results.setMessages(tally.messages);
    results.setDigest(tally.digest);
  }

  StreamTally poured_;
};

// A service of one method, Echo, for a server that has no other.
class OnlyEchoImpl final : public EchoImpl {
 public:
  OnlyEchoImpl() : info_(EchoImpl::interface_info()) { info_.method_count = 1; }

  const InterfaceInfo& interface_info() const override { return info_; }

 private:
  InterfaceInfo info_;
};

// A service that nobody calls: one of many that are registered beside the one that is.
class UncalledService final : public Service {
 public:
  static constexpr size_t kMethods = 10;

  explicit UncalledService(uint64_t id, size_t methods = kMethods) {
    for (size_t i = 0; i < methods; ++i) {
      methods_.push_back(
          {.interface_id = id, .method_id = static_cast<uint16_t>(i), .name = "Uncalled.method"});
    }
    info_ = {.id = id,
             .name = "Uncalled",
             .methods = methods_.data(),
             .method_count = methods_.size(),
             .bases = nullptr,
             .base_count = 0};
  }

  const InterfaceInfo& interface_info() const override { return info_; }
  Reply Dispatch(uint64_t interface_id, uint16_t method_id, ServerCall&) override {
    return UnknownMethod(info_, interface_id, method_id);
  }

 private:
  std::vector<MethodInfo> methods_;
  InterfaceInfo info_ = {};
};

}  // namespace mi7::bench
