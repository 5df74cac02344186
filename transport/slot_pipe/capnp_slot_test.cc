#include "transport/slot_pipe/capnp_slot.h"

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <capnp/schema.capnp.h>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using absl::StatusCode;
using slot_pipe_internal::Is;

// Any schema will do: this one comes with Cap'n Proto.
using Message = capnp::schema::Annotation;

class CapnpSlotTest : public testing::Test {
 protected:
  static bool IsIn(absl::string_view bytes, const char* at) {
    return std::less_equal<>()(bytes.data(), at) && std::less<>()(at, bytes.data() + bytes.size());
  }

  slot_pipe_internal::TestDirectory directory_;
  std::unique_ptr<SlotPipe> pipe_ =
      SlotPipe::Create("capnp", {.slots = 4, .slot_bytes = 256}).value();
};

TEST_F(CapnpSlotTest, AMessageIsBuiltAndReadInItsSlot) {
  for (uint64_t round = 0; round < 10; ++round) {
    WriteSlot slot = *pipe_->Hold();
    const std::byte* const begin = slot.data();
    SlotMessageBuilder builder(std::move(slot));
    auto root = builder.message().initRoot<Message>();
    root.setId(round);
    auto value = root.initValue();
    value.setText("in place");
    EXPECT_TRUE(IsIn({reinterpret_cast<const char*>(begin), 256}, value.getText().begin()))
        << "built in the slot";
    ASSERT_TRUE(builder.Send().ok());

    auto message = pipe_->Fetch();
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->kind(), PayloadKind::kCapnp);
    EXPECT_EQ(message->data(), begin);
    auto reader = SlotMessageReader::Open(*message);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(reader->message().getRoot<Message>().getId(), round);
    const capnp::Text::Reader text = reader->message().getRoot<Message>().getValue().getText();
    EXPECT_EQ(text, "in place");
    EXPECT_TRUE(IsIn(message->text(), text.begin())) << "read in the slot";
    ASSERT_TRUE(message->Release().ok());
  }
}

TEST_F(CapnpSlotTest, AMessageLargerThanASlotIsRefusedAndItsSlotGivenBack) {
  {
    SlotMessageBuilder builder(*pipe_->Hold());
    builder.message().initRoot<Message>().initValue().setText(std::string(1000, 'x'));
    const absl::Status large = builder.Send();
    EXPECT_TRUE(Is(large, StatusCode::kInvalidArgument, "into a slot of 256"));
    EXPECT_EQ(SlotPipeErrorOf(large), SlotPipeError::kMessageTooLarge);
  }
  EXPECT_EQ(pipe_->Status().empty, 4u);
}

TEST_F(CapnpSlotTest, BytesAndMalformedMessagesAreTold) {
  ASSERT_TRUE(pipe_->SendBytes("bytes").ok());
  const absl::Status bytes = SlotMessageReader::Open(*pipe_->Fetch()).status();
  EXPECT_TRUE(Is(bytes, StatusCode::kInvalidArgument, "is bytes"));
  EXPECT_EQ(SlotPipeErrorOf(bytes), SlotPipeError::kNotCapnp);
  ASSERT_TRUE(pipe_->TryFetch()->Release().ok());
  WriteSlot slot = *pipe_->Hold();
  const uint32_t framing[2] = {0, 1'000'000};
  std::memcpy(slot.data(), framing, sizeof(framing));
  ASSERT_TRUE(slot.Send(16, PayloadKind::kCapnp).ok());
  EXPECT_TRUE(Is(SlotMessageReader::Open(*pipe_->Fetch()).status(), StatusCode::kInvalidArgument,
                 "malformed: 16 bytes"));
}

}  // namespace
}  // namespace mi7
