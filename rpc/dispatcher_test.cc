#include "rpc/dispatcher.h"

#include <memory>
#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/exception.h>

#include "rpc/fake_connection.h"
#include "rpc/session.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"

namespace mi7 {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using transport::IncomingMessage;
using transport::OutgoingMessage;

// A session whose peer is the test, before a dispatcher.
class DispatcherTest : public testing::Test {
 protected:
  void TearDown() override { connection_->End(); }
  LambdaService::Handler Named(const std::string& name) {
    return [this, name](uint64_t interface_id, uint16_t method_id, ServerCall& call) {
      ran_ = absl::StrCat(name, " ", absl::Hex(interface_id), ".", method_id);
      return EchoKey(call);
    };
  }
  // Delivers `call` and returns the answer.
  template <typename Message>
  IncomingMessage Answer(Message call) {
    if (session_ == nullptr) {
      auto config = std::make_shared<SessionConfig>();
      config->dispatcher = &dispatcher_;
      session_ = std::make_shared<Session>(connection_, std::weak_ptr<Session::Observer>(), config);
      connection_->Start(session_);
    }
    connection_->Deliver(std::move(call));
    EXPECT_EQ(connection_->sent_count(), 1u);
    return connection_->TakeSent();
  }
  absl::Status Call(uint64_t service_id, uint64_t interface_id, uint16_t method_id) {
    return ReturnStatus(Answer(MakeCall(7, service_id, interface_id, method_id)));
  }

  Dispatcher dispatcher_;
  std::shared_ptr<FakeConnection> connection_ = std::make_shared<FakeConnection>();
  std::shared_ptr<Session> session_;
  std::string ran_;
};

TEST_F(DispatcherTest, RunsTheServiceThatTheKeyNames) {
  LambdaService derived(kDerivedInfo, Named("derived"));
  LambdaService other(kOtherInfo, Named("other"));
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  ASSERT_THAT(dispatcher_.Add(&other), IsOk());
  EXPECT_EQ(dispatcher_.service_count(), 2u);

  const IncomingMessage answer = Answer(MakeCall(7, kDerivedId, kDerivedId, 1, "hello"));
  EXPECT_THAT(ReturnStatus(answer), IsOk());
  EXPECT_EQ(answer.header().call_id, 7u);
  EXPECT_EQ(KeyIn(answer), "hello");
  EXPECT_EQ(ran_, "derived d000000000000002.1");

  EXPECT_THAT(Call(kOtherId, kOtherId, 0), IsOk());
  EXPECT_EQ(ran_, "other e000000000000003.0");
}

TEST_F(DispatcherTest, ServiceAnswersForWhatItExtends) {
  LambdaService derived(kDerivedInfo, Named("derived"));
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  EXPECT_THAT(Call(kBaseId, kBaseId, 0), IsOk()) << "through the base's own stub";
  EXPECT_EQ(ran_, "derived b000000000000001.0");
  EXPECT_THAT(Call(kDerivedId, kBaseId, 0), IsOk()) << "through the derived stub";
  EXPECT_EQ(ran_, "derived b000000000000001.0");
}

TEST_F(DispatcherTest, BaseOfTwoServicesIsAmbiguousButReachableThroughEach) {
  LambdaService derived(kDerivedInfo, Named("derived"));
  LambdaService other(kOtherInfo, Named("other"));
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  ASSERT_THAT(dispatcher_.Add(&other), IsOk());
  EXPECT_THAT(Call(kBaseId, kBaseId, 0),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("several services of this server extend Base"),
                             HasSubstr("Derived, Other"))));
  EXPECT_EQ(ran_, "");
  EXPECT_THAT(Call(kDerivedId, kBaseId, 0), IsOk());
  EXPECT_EQ(ran_, "derived b000000000000001.0");
  EXPECT_THAT(Call(kOtherId, kBaseId, 0), IsOk());
  EXPECT_EQ(ran_, "other b000000000000001.0");
}

TEST_F(DispatcherTest, ServiceOfTheBaseItselfWinsInAnyOrder) {
  LambdaService base(kBaseInfo, Named("base"));
  LambdaService derived(kDerivedInfo, Named("derived"));
  LambdaService other(kOtherInfo, Named("other"));
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  ASSERT_THAT(dispatcher_.Add(&base), IsOk());
  ASSERT_THAT(dispatcher_.Add(&other), IsOk());
  EXPECT_THAT(Call(kBaseId, kBaseId, 0), IsOk());
  EXPECT_EQ(ran_, "base b000000000000001.0");
  EXPECT_THAT(Call(kDerivedId, kBaseId, 0), IsOk());
  EXPECT_EQ(ran_, "derived b000000000000001.0");
}

TEST_F(DispatcherTest, DiamondIsNotAmbiguous) {
  static constexpr const InterfaceInfo* kBoth[] = {&kDerivedInfo, &kOtherInfo};
  static constexpr InterfaceInfo kDiamond = {0xf000000000000004, "Diamond", nullptr, 0, kBoth, 2};
  LambdaService diamond(kDiamond, Named("diamond"));
  ASSERT_THAT(dispatcher_.Add(&diamond), IsOk());
  for (const uint64_t id : {kBaseId, kDerivedId, kOtherId}) {
    EXPECT_THAT(Call(id, id, 0), IsOk());
    EXPECT_EQ(ran_, absl::StrCat("diamond ", absl::Hex(id), ".0"));
  }
}

TEST_F(DispatcherTest, SameInterfaceTwiceIsRefused) {
  LambdaService first(kDerivedInfo, Named("first"));
  LambdaService second(kDerivedInfo, Named("second"));
  ASSERT_THAT(dispatcher_.Add(&first), IsOk());
  EXPECT_THAT(dispatcher_.Add(&second),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       "service Derived cannot be added: Derived is already served"));
  EXPECT_EQ(dispatcher_.service_count(), 1u);
}

TEST_F(DispatcherTest, CollidingServiceKeysAreRefusedNamingBoth) {
  // The halves swapped give the same key.
  static constexpr uint64_t kSwapped = (kDerivedId << 32) | (kDerivedId >> 32);
  static_assert(ServiceKey(kSwapped) == ServiceKey(kDerivedId));
  static constexpr InterfaceInfo kColliding = {kSwapped, "Colliding", nullptr, 0, nullptr, 0};
  LambdaService first(kDerivedInfo, Named("first"));
  LambdaService second(kColliding, Named("second"));
  ASSERT_THAT(dispatcher_.Add(&first), IsOk());
  EXPECT_THAT(dispatcher_.Add(&second),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       "service Colliding cannot be added: Derived has the same service key"));
}

TEST_F(DispatcherTest, UnknownServiceIsUnimplementedNamingIt) {
  EXPECT_THAT(Call(kDerivedId, kDerivedId, 0),
              StatusIs(absl::StatusCode::kUnimplemented,
                       "no service for interface 0xd000000000000002 (service key 0xd0000002); "
                       "this server has no service"));
  LambdaService other(kOtherInfo, Named("other"));
  ASSERT_THAT(dispatcher_.Add(&other), IsOk());
  EXPECT_THAT(Call(kDerivedId, kDerivedId, 0),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("this server has Other")));
}

TEST_F(DispatcherTest, UnknownMethodAndInterfaceAreNamedByTheSkeletonsHelpers) {
  LambdaService derived(kDerivedInfo, [](uint64_t interface_id, uint16_t method_id, ServerCall&) {
    return UnknownMethod(kDerivedInfo, interface_id, method_id);
  });
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  EXPECT_THAT(Call(kDerivedId, kDerivedId, 9),
              StatusIs(absl::StatusCode::kUnimplemented,
                       "interface Derived of service Derived has no method @9 (it has 2)"));
  EXPECT_THAT(Call(kDerivedId, kBaseId, 1),
              StatusIs(absl::StatusCode::kUnimplemented,
                       "interface Base of service Derived has no method @1 (it has 1)"));
  EXPECT_THAT(Call(kDerivedId, kOtherId, 0),
              StatusIs(absl::StatusCode::kUnimplemented,
                       "service Derived does not have interface 0xe000000000000003"));
}

TEST_F(DispatcherTest, MethodThatIsNotOverriddenIsNamed) {
  LambdaService derived(kDerivedInfo, [](uint64_t, uint16_t, ServerCall&) {
    return Unimplemented(kDerivedInfo, kDerivedMethods[1]);
  });
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  EXPECT_THAT(
      Call(kDerivedId, kDerivedId, 1),
      StatusIs(absl::StatusCode::kUnimplemented, "service Derived does not implement Derived.put"));
}

TEST_F(DispatcherTest, UnsupportedTargetKindsAreUnimplemented) {
  LambdaService derived(kDerivedInfo, Named("derived"));
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  for (const auto kind :
       {transport::TargetKind::kCapability, transport::TargetKind::kPromisedAnswer}) {
    OutgoingMessage call = MakeCall(7, kDerivedId, kDerivedId, 0);
    call->header.target = kind;
    EXPECT_THAT(ReturnStatus(Answer(std::move(call))),
                StatusIs(absl::StatusCode::kUnimplemented,
                         HasSubstr("(capabilities, promised answers) are not supported")));
  }
  EXPECT_EQ(ran_, "");
}

TEST_F(DispatcherTest, ExceptionsOfHandlersAreInternalAndNameTheMethod) {
  LambdaService derived(kDerivedInfo, [](uint64_t, uint16_t method_id, ServerCall&) -> Reply {
    if (method_id == 0) throw std::runtime_error("out of luck");
    if (method_id == 1) {
      throw kj::Exception(kj::Exception::Type::FAILED, "somewhere.c++", 1, kj::str("kj says no"));
    }
    throw 42;
  });
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  EXPECT_THAT(Call(kDerivedId, kDerivedId, 0),
              StatusIs(absl::StatusCode::kInternal,
                       "handler of Derived.get threw an exception: out of luck"));
  EXPECT_THAT(Call(kDerivedId, kDerivedId, 1),
              StatusIs(absl::StatusCode::kInternal,
                       "handler of Derived.put threw kj::Exception: kj says no"));
  EXPECT_THAT(Call(kDerivedId, kDerivedId, 2),
              StatusIs(absl::StatusCode::kInternal,
                       "handler of Derived threw something that is no std::exception"));
}

TEST_F(DispatcherTest, MalformedParamsAreInvalidArgumentAndNameTheMethod) {
  LambdaService derived(kDerivedInfo, Named("derived"));
  ASSERT_THAT(dispatcher_.Add(&derived), IsOk());
  const transport::FrameHeader header = MakeCall(7, kDerivedId, kDerivedId, 0)->header;
  EXPECT_THAT(ReturnStatus(Answer(MakeReceived(header, kBodyWithPointerBeyondTheEnd))),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("handler of Derived.get: malformed Cap'n Proto message: ")));
}

}  // namespace
}  // namespace mi7
