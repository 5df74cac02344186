// What the runtime above the transports costs, half by half, over a connection that carries
// nothing: the table of calls in flight at the caller, and dispatch at the callee. Both include the
// messages that they are about; message_benchmark has those alone.

#include <cstdint>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/limits.h"
#include "bench/micro/null_connection.h"
#include "bench/subjects/echo.mi7.h"
#include "bench/subjects/mi7_service.h"
#include "benchmark/benchmark.h"
#include "rpc/call_side.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/dispatcher.h"
#include "rpc/interface_info.h"
#include "rpc/session.h"
#include "rpc/session_streams.h"
#include "transport/message.h"

namespace mi7::bench {
namespace {

constexpr size_t kBodyBytes = 24;

// As if it had arrived.
transport::IncomingMessage Received(transport::OutgoingMessage message) {
  MI7_CHECK(transport::SealMessage(*message, Limits{}).ok(), "a small message");
  return transport::MakeIncoming(std::move(message));
}

transport::OutgoingMessage NewReturn(uint32_t call_id) {
  transport::OutgoingMessage message = transport::NewHeapMessage(kBodyBytes);
  message->header.type = transport::FrameType::kReturn;
  message->header.call_id = call_id;
  message->initRoot<Echo::EchoResults>().setValue(1);
  return message;
}

// A call into the table and, when its return is there, out of it, while so many others are in
// flight.
void BM_CallTable(benchmark::State& state) {
  const Limits limits;
  NullConnection connection;
  const transport::Negotiated negotiated = connection.info().negotiated;
  SessionStreams streams(&connection, negotiated);
  CallSide calls(&streams, negotiated, limits);
  const auto channel = Channel::Create("tcp:127.0.0.1:1");
  MI7_CHECK(channel.ok(), "the benchmark's channel is sound");
  EchoImpl echo;
  const InterfaceInfo& service = echo.interface_info();
  const auto send = [&] {
    ClientCall* const call = ClientCall::New(*channel, nullptr, service, service.methods[0], {},
                                             transport::NewHeapMessage(kBodyBytes));
    call->request().initRoot<Echo::EchoParams>().setValue(1);
    calls.Send(call);
    call->Unref();
  };
  for (int64_t i = 0; i < state.range(0); ++i) send();
  for (auto _ : state) {
    send();
    const absl::Status taken = calls.OnReturn(Received(NewReturn(connection.last_sent().call_id)));
    MI7_CHECK(taken.ok(), "the call is in flight");
  }
  calls.OnClosed(absl::CancelledError("the benchmark is over"));
}
BENCHMARK(BM_CallTable)->Arg(0)->Arg(63)->Arg(1023);

// A call from its arrival to its handler and its answer, among so many registered services.
void BM_Dispatch(benchmark::State& state) {
  EchoImpl echo;
  std::vector<std::unique_ptr<UncalledService>> others;
  Dispatcher dispatcher;
  MI7_CHECK(dispatcher.Add(&echo).ok(), "nobody else has its id");
  for (int64_t i = 1; i < state.range(0); ++i) {
    others.push_back(
        std::make_unique<UncalledService>(0x9e3779b97f4a7c15u * static_cast<uint64_t>(i)));
    MI7_CHECK(dispatcher.Add(others.back().get()).ok(), "no two ids collide");
  }
  auto config = std::make_shared<SessionConfig>();
  config->dispatcher = &dispatcher;
  const auto connection = std::make_shared<NullConnection>();
  connection->Start(
      std::make_shared<Session>(connection, std::weak_ptr<Session::Observer>(), config));
  const InterfaceInfo& service = echo.interface_info();
  for (auto _ : state) {
    transport::OutgoingMessage call = transport::NewHeapMessage(kBodyBytes);
    call->header.type = transport::FrameType::kCall;
    call->header.target = transport::TargetKind::kService;
    call->header.call_id = 1;
    call->header.code = service.methods[0].method_id;
    call->header.interface_id = service.id;
    call->header.target_id = ServiceKey(service.id);
    call->initRoot<Echo::EchoParams>().setValue(1);
    connection->Deliver(Received(std::move(call)));
    MI7_CHECK(connection->last_sent().type == transport::FrameType::kReturn, "it was answered");
  }
  connection->End();
}
BENCHMARK(BM_Dispatch)->Arg(1)->Arg(16)->Arg(1000);

}  // namespace
}  // namespace mi7::bench
