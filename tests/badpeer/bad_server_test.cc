// What a server can do wrong to a channel: each call ends with its exact status and outcome, and
// the process goes on with its other channels.

#include "tests/badpeer/bad_server.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "rpc/retry_info.h"
#include "rpc/retry_policy.h"

namespace mi7::badpeer {
namespace {

// --- Connecting ---

TEST_F(BadServerTest, ServerThatSpeaksSomethingElseIsNamed) {
  const struct {
    std::string bytes;
    const char* name;
  } kGreetings[] = {
      {"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"},
      {std::string("\x15\x03\x01\x00\x02\x02\x46", 7), "TLS"},
      {"SSH-2.0-OpenSSH_9.2\r\n", "5353482d"},
      {std::string("\0\0\0\0\1\0\0\0", 8), "Cap'n Proto"},
  };
  for (const auto& test : kGreetings) {
    SCOPED_TRACE(test.name);
    Pending call = Send();
    RawPeer server = listener_.Accept();
    server.Send(test.bytes);
    const EchoResult result = call.Wait();
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kFailedPrecondition,
                                 AllOf(StartsWith("Probe.echo: "), HasSubstr(listener_.endpoint()),
                                       HasSubstr(test.name))));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
    EXPECT_TRUE(server.Ends());
    // Out of the backoff.
    const Deadline patience = Deadline::After(kSoon);
    while (channel_->state() != ChannelState::kIdle) ASSERT_FALSE(patience.passed());
  }
  ExpectRecovers();
}

// Calls wait for a server that is away; this one is there, and will not come to speak mi7 soon.
TEST_F(BadServerTest, CallsDoNotWaitForAServerOfAnotherProtocol) {
  ChannelOptions options;
  options.connect_timeout = absl::Seconds(2);
  // No longer than calls wait for a server that is away.
  options.backoff.initial = options.backoff.max = options.retry.policy.backoff.max / 2;
  channel_ = *Channel::Create(listener_.endpoint(), options);
  Pending waiting = Send();
  RawPeer server = listener_.Accept();
  server.Send("HTTP/1.1 400 Bad Request\r\n\r\n");
  const EchoResult result = waiting.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("HTTP")));
  EXPECT_EQ(channel_->state(), ChannelState::kBackoff);
  // Until the next attempt, which nobody has asked for.
  const EchoResult next = Send().Wait();
  EXPECT_EQ(next.status(), result.status());
  EXPECT_THAT(next, OutcomeIs(CallOutcome::kNotSent));
  // Nor when their options say that they may be repeated.
  EXPECT_EQ(Send(channel_, "x", {.repeat = Repeat::kIdempotent}).Wait().status(), result.status());
}

TEST_F(BadServerTest, ServerOfAnotherVersionIsNamed) {
  Pending call = Send();
  RawPeer server = listener_.Accept();
  server.Send(Opening(3) + Hello());
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                    HasSubstr("peer speaks version 3 of the wire format")));
  server.Close();
  Pending second =
      Send(channel_, "x", {.deadline = Deadline::After(kSoon), .wait_for_ready = true});
  server = listener_.Accept();
  server.Send(Opening() + Hello(2, 5));
  // A call that waits for a ready server goes on waiting; the failure is visible.
  RawPeer next = listener_.AcceptGreeted();
  next.Send(Message(ReturnHeader(TakeCall(next)), EchoBody()));
  EXPECT_THAT(second.Wait(), IsOk());
}

TEST_F(BadServerTest, ServerThatClosesDuringTheHandshakeIsUnavailable) {
  const std::string greeting = Greeting();
  for (const size_t bytes : {size_t{0}, size_t{5}, size_t{8}, size_t{30}, greeting.size() - 1}) {
    SCOPED_TRACE(bytes);
    // The server seems to be away for a moment, for which others would wait.
    Pending call = Send(channel_, "x", {.repeat = Repeat::kNever});
    RawPeer server = listener_.Accept();
    server.ReadGreeting();
    server.Send(greeting.substr(0, bytes));
    if (bytes % 2 == 0) {
      server.Close();
    } else {
      server.Reset();
    }
    const EchoResult result = call.Wait();
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(listener_.endpoint())));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
    const Deadline patience = Deadline::After(kSoon);
    while (channel_->state() != ChannelState::kIdle) ASSERT_FALSE(patience.passed());
  }
  ExpectRecovers();
}

TEST_F(BadServerTest, ServersReasonToRefuseIsTold) {
  // Others would wait until a server that is full has room.
  Pending call = Send(channel_, "x", {.repeat = Repeat::kNever});
  RawPeer server = listener_.Accept();
  FrameHeader close = ControlHeader(FrameType::kClose);
  close.code = static_cast<uint16_t>(absl::StatusCode::kResourceExhausted);
  server.Send(Opening() + Message(close));
  const EchoResult result = call.Wait();
  EXPECT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("peer closed: "));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(BadServerTest, ServerThatSaysNothingIsUnavailable) {
  ChannelOptions options;
  options.connect_timeout = absl::Seconds(1);
  options.backoff.initial = absl::Hours(1);
  options.backoff.max = absl::Hours(1);
  channel_ = *Channel::Create(listener_.endpoint(), options);
  const Deadline timeout = Deadline::After(options.connect_timeout);
  Pending call = Send();
  RawPeer server = listener_.Accept();
  const EchoResult result = call.Wait();
  EXPECT_TRUE(timeout.passed());
  // The call has no deadline that could have passed.
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(listener_.endpoint())));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(BadServerTest, DeadlinePassesWhileTheServerSaysNothing) {
  const Deadline deadline = Deadline::After(absl::Milliseconds(300));
  Pending call = Send(channel_, "x", {.deadline = deadline});
  RawPeer server = listener_.Accept();
  const EchoResult result = call.Wait();
  EXPECT_TRUE(deadline.passed());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(BadServerTest, CancelWhileTheServerSaysNothing) {
  Pending call = Send();
  RawPeer server = listener_.Accept();
  call.Cancel();
  const EchoResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  // Nothing of it is sent once the server does speak.
  ASSERT_TRUE(server.ReadGreeting());
  server.Send(Greeting());
  Pending next = Send("next");
  std::optional<Received> first = server.ReadMessage();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.type, FrameType::kCall);
  EXPECT_EQ(first->text(), "next");
}

TEST_F(BadServerTest, CallsThatWaitForTheConnectionAreBounded) {
  ChannelOptions options;
  options.limits.calls_in_flight_max = 3;
  channel_ = *Channel::Create(listener_.endpoint(), options);
  std::vector<Pending> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(Send());
  const EchoResult result = Send(channel_, "x", {.repeat = Repeat::kNever}).Wait();
  EXPECT_THAT(result,
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("3 calls wait for the connection, calls_in_flight_max is 3")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_EQ(RetryAfter(result.status()), LoadLimits().retry_after);
  // One that may be repeated comes again as advised.
  const auto often = std::make_shared<const RetryPolicy>(RetryPolicy{.attempts_max = 1000});
  waiting.push_back(Send(channel_, "x", {.retry = often}));
  RawPeer server = listener_.AcceptGreeted();
  for (Pending& call : waiting) {
    server.Send(Message(ReturnHeader(TakeCall(server)), EchoBody()));
    EXPECT_THAT(call.Wait(), IsOk());
  }
}

TEST_F(BadServerTest, ClosedChannelGivesUpConnecting) {
  ChannelOptions options;
  options.connect_timeout = options.limits.handshake_timeout = absl::Hours(1);
  channel_ = *Channel::Create(listener_.endpoint(), options);
  Pending call = Send();
  RawPeer server = listener_.Accept();
  ASSERT_TRUE(server.ReadGreeting());
  channel_->Close();
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_TRUE(server.Ends()) << "the attempt of a closed channel ends, whatever the server says";
}

// --- Losing the connection ---

TEST_F(BadServerTest, ResetAndEndLoseCallsAsMayHaveRun) {
  for (const bool reset : {true, false}) {
    SCOPED_TRACE(reset);
    Pending first = Send(channel_, "x", {.wait_for_ready = true});
    Pending second = Send(channel_, "x", {.wait_for_ready = true});
    RawPeer server = listener_.AcceptGreeted();
    TakeCall(server);
    TakeCall(server);
    if (reset) {
      server.Reset();
    } else {
      server.Close();
    }
    for (Pending* call : {&first, &second}) {
      const EchoResult result = call->Wait();
      EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                                   StartsWith("Probe.echo: connection lost")));
      EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
    }
  }
  ExpectRecovers();
}

TEST_F(BadServerTest, AnswerCutOffByTheEndIsLost) {
  const std::string answer = Message(ReturnHeader(0), EchoBody());
  for (size_t bytes = 8; bytes < answer.size(); bytes += 16) {
    SCOPED_TRACE(bytes);
    Pending call = Send(channel_, "x", {.wait_for_ready = true});
    RawPeer server = listener_.AcceptGreeted();
    TakeCall(server);
    server.Send(answer.substr(0, bytes));
    server.Close();
    const EchoResult result = call.Wait();
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  }
  ExpectRecovers();
}

TEST_F(BadServerTest, CallsThatTheSystemNeverTookWereNotSent) {
  // Much more than the system's buffers of both sides take.
  Pending first = Send();
  RawPeer server = listener_.AcceptGreeted(/*receive_buffer=*/4096);
  TakeCall(server);
  std::vector<Pending> calls;
  for (int i = 0; i < 40; ++i) calls.push_back(Send(std::string(1 << 20, 'x')));
  server.Reset();
  EXPECT_THAT(first.Wait(), OutcomeIs(CallOutcome::kUnknown));
  int unknown = 0, not_sent = 0;
  for (Pending& call : calls) {
    const EchoResult result = call.Wait();
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
    (OutcomeOf(result.status()) == CallOutcome::kNotSent ? not_sent : unknown) += 1;
  }
  EXPECT_GT(not_sent, 20);
  EXPECT_EQ(unknown + not_sent, 40);
}

TEST_F(BadServerTest, GoAwayMovesLaterCallsToANewConnection) {
  Pending before = Send();
  RawPeer first = listener_.AcceptGreeted();
  const uint32_t id = TakeCall(first);
  first.Send(Message(ControlHeader(FrameType::kGoAway)));
  // The answer to a ping tells that the channel has read it.
  first.Send(Message(ControlHeader(FrameType::kPing, 1)));
  ASSERT_TRUE(first.ReadMessageOf(FrameType::kPong));
  Pending after = Send("after");
  RawPeer second = listener_.AcceptGreeted();
  second.Send(Message(ReturnHeader(TakeCall(second)), EchoBody()));
  EXPECT_THAT(after.Wait(), IsOk());
  first.Send(Message(ReturnHeader(id), EchoBody()));
  EXPECT_THAT(before.Wait(), IsOk()) << "the old connection lives until its calls have ended";
  EXPECT_TRUE(first.Ends());
}

// --- Answers ---

TEST_F(BadServerTest, ReturnForNoCallClosesAndLosesTheOthers) {
  Pending call = Send();
  RawPeer server = listener_.AcceptGreeted();
  const uint32_t id = TakeCall(server);
  server.Send(Message(ReturnHeader(id + 1), EchoBody()));
  ExpectClosed(server,
               StatusIs(absl::StatusCode::kInvalidArgument,
                        absl::StrCat("return for call ", id + 1, ", which is not in flight")));
  const EchoResult result = call.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("not in flight")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  ExpectRecovers();
}

TEST_F(BadServerTest, BrokenHeaderClosesAndNamesTheField) {
  Pending call = Send();
  RawPeer server = listener_.AcceptGreeted();
  FrameHeader header = ReturnHeader(TakeCall(server));
  header.timeout = 5;
  server.Send(Message(header, EchoBody()));
  ExpectClosed(server, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("timeout is 5")));
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("timeout is 5")));
  ExpectRecovers();
}

TEST_F(BadServerTest, MalformedResultsFailTheCallAlone) {
  Pending first = Send();
  RawPeer server = listener_.AcceptGreeted();
  server.Send(Message(ReturnHeader(TakeCall(server)), EchoBody()));
  EXPECT_THAT(first.Wait(), IsOk());
  const struct {
    const char* what;
    Words body;
    absl::StatusCode code;
  } kBodies[] = {
      {"no body", {}, absl::StatusCode::kInternal},
      {"no words", Body({}), absl::StatusCode::kInternal},
      {"root beyond the end", Body({0x0002'0000'0000'0fa0}), absl::StatusCode::kInternal},
      {"root is far, to itself", Body({2}), absl::StatusCode::kInternal},
      {"513 segments", Words(1 + 256 + 513, 0), absl::StatusCode::kInvalidArgument},
      {"table exceeds the message", {400, 0}, absl::StatusCode::kInvalidArgument},
  };
  for (const auto& test : kBodies) {
    SCOPED_TRACE(test.what);
    Pending call = Send();
    Words body = test.body;
    if (body.size() > 512) body[0] = 512;
    server.Send(Message(ReturnHeader(TakeCall(server)), body));
    const EchoResult result = call.Wait();
    EXPECT_THAT(result, StatusIs(test.code, StartsWith("Probe.echo: ")));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kAnswered));
  }
  // One whose malformed part is deeper throws where it is read, as everywhere in Cap'n Proto.
  Pending deep = Send();
  server.Send(Message(ReturnHeader(TakeCall(server)),
                      Body({0x0002'0000'0000'0000, 0x0000'7ffa'0000'0001, 0})));
  EchoResult result = deep.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_THROW(result->getText(), kj::Exception);
}

TEST_F(BadServerTest, MalformedErrorKeepsItsCode) {
  Pending call = Send();
  RawPeer server = listener_.AcceptGreeted();
  FrameHeader header = ReturnHeader(TakeCall(server));
  header.code = static_cast<uint16_t>(absl::StatusCode::kNotFound);
  header.extra_size = 16;
  server.Send(Message(header, {0x0000'0001'0000'0000, 2}));
  EXPECT_THAT(call.Wait(),
              StatusIs(absl::StatusCode::kNotFound, StartsWith("(malformed error details: ")));
  Pending plain = Send();
  header = ReturnHeader(TakeCall(server));
  header.code = static_cast<uint16_t>(absl::StatusCode::kNotFound);
  server.Send(Message(header));
  EXPECT_EQ(plain.Wait().status(), absl::NotFoundError(""));
}

TEST_F(BadServerTest, ResultsOf4GiBFailTheCallAndStoreNothing) {
  const size_t before = ResidentBytes();
  Pending call = Send();
  RawPeer server = listener_.AcceptGreeted();
  FrameHeader header = ReturnHeader(TakeCall(server));
  header.size = 0xffff'fff8;
  server.Send(Exactly(header));
  EXPECT_THAT(call.Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(StartsWith("Probe.echo: results: "), HasSubstr("4294967288"))));
  EXPECT_LT(ResidentBytes(), before + (8u << 20));
}

TEST_F(BadServerTest, CallFromTheServerIsRefused) {
  Pending call = Send();
  RawPeer server = listener_.AcceptGreeted();
  const uint32_t id = TakeCall(server);
  server.Send(EchoCall(77));
  const std::optional<Received> answer = server.ReadMessageOf(FrameType::kReturn);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->header.call_id, 77u);
  EXPECT_THAT(answer->status(), StatusIs(absl::StatusCode::kUnimplemented,
                                         "this end of the connection serves nothing"));
  EXPECT_TRUE(answer->refused());
  server.Send(Message(ReturnHeader(id), EchoBody()));
  EXPECT_THAT(call.Wait(), IsOk());
}

TEST_F(BadServerTest, CancelledCallIsNotHurtByItsLateAnswer) {
  Pending call = Send();
  RawPeer server = listener_.AcceptGreeted();
  const uint32_t id = TakeCall(server);
  call.Cancel();
  EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kCancelled));
  const std::optional<Received> cancel = server.ReadMessage();
  ASSERT_TRUE(cancel);
  EXPECT_EQ(cancel->header.type, FrameType::kCancel);
  EXPECT_EQ(cancel->header.call_id, id);
  server.Send(Message(ReturnHeader(id), EchoBody()));
  Pending next = Send();
  server.Send(Message(ReturnHeader(TakeCall(server)), EchoBody()));
  EXPECT_THAT(next.Wait(), IsOk());
}

// --- A server that does not read ---

TEST_F(BadServerTest, CallsFailWhenTheQueueIsFull) {
  ChannelOptions options;
  options.limits.message_bytes_max = 2 << 20;
  options.limits.queued_bytes_max = 8 << 20;
  channel_ = *Channel::Create(listener_.endpoint(), options);
  Pending first = Send();
  RawPeer server = listener_.AcceptGreeted(/*receive_buffer=*/4096);
  TakeCall(server);
  const size_t before = ResidentBytes();
  // Callbacks of calls that wait come when the connection ends, that of a call which fails at once
  // inside Then.
  auto full = std::make_shared<std::optional<absl::Status>>();
  for (int i = 0; i < 200 && !*full; ++i) {
    Send(std::string(1 << 20, 'x')).Then([full](EchoResult result) {
      if (absl::IsResourceExhausted(result.status())) *full = result.status();
    });
  }
  ASSERT_TRUE(*full) << "200 MiB were queued for a server that reads nothing";
  EXPECT_THAT(**full, StatusIs(absl::StatusCode::kResourceExhausted,
                               AllOf(StartsWith("Probe.echo: "), HasSubstr("queued_bytes_max"))));
  EXPECT_THAT(**full, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_EQ(RetryAfter(**full), LoadLimits().retry_after);
  EXPECT_LT(ResidentBytes(), before + (40u << 20));
  server.Close();
  EXPECT_THAT(first.Wait(), OutcomeIs(CallOutcome::kUnknown));
}

}  // namespace
}  // namespace mi7::badpeer
