#include "transport/stream/write_pieces.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/limits.h"
#include "transport/frame.h"

namespace mi7::transport {
namespace {

// Header, segment table and the pointer to the payload.
constexpr size_t kHeadBytes = kFrameHeaderBytes + 8 + 8;

// Messages that are linked as a batch is.
class Batch {
 public:
  // One of `bytes` in all, whose payload is made of one letter.
  void Add(size_t bytes, char letter) {
    OutgoingMessage message = NewHeapMessage(bytes);
    message->header.type = FrameType::kCall;
    message->header.target = TargetKind::kService;
    message->header.call_id = static_cast<uint32_t>(messages_.size() + 1);
    auto data = message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(
        static_cast<capnp::uint>(bytes - kHeadBytes));
    std::fill(data.begin(), data.end(), static_cast<kj::byte>(letter));
    Add(std::move(message));
  }
  void Add(OutgoingMessage message) {
    EXPECT_TRUE(SealMessage(*message, Limits{}).ok());
    if (!messages_.empty()) messages_.back()->next = &*message;
    message->next = nullptr;
    messages_.push_back(std::move(message));
  }
  MessageBody* first() { return &*messages_.front(); }
  // What each has when it is written alone.
  std::string Bytes() {
    std::string all;
    for (const OutgoingMessage& message : messages_) {
      PieceList pieces;
      AppendPieces(*message, pieces);
      all += BytesOf(pieces);
    }
    return all;
  }
  static std::string BytesOf(const PieceList& pieces) {
    std::string all;
    for (const ByteSpan& piece : pieces) {
      all.append(reinterpret_cast<const char*>(piece.data), piece.size);
    }
    return all;
  }
  // Where the message that was added as the `index`th is written from.
  const std::byte* place(size_t index) {
    PieceList pieces;
    AppendPieces(*messages_[index], pieces);
    return pieces[0].data;
  }

 private:
  std::vector<OutgoingMessage> messages_;
};

TEST(WritePiecesTest, SmallMessagesThatGoTogetherAreOnePiece) {
  WritePieces writes;
  for (const int count : {2, 64, 64, 64, 3}) {
    Batch batch;
    for (int i = 0; i < count; ++i) batch.Add(56 + 8 * static_cast<size_t>(i % 20), 'a');
    const PieceList& pieces = writes.List(batch.first());
    EXPECT_EQ(pieces.size(), 1u);
    EXPECT_EQ(Batch::BytesOf(pieces), batch.Bytes());
  }
}

TEST(WritePiecesTest, AMessageThatGoesAloneIsNotCopied) {
  WritePieces writes;
  Batch batch;
  batch.Add(64, 'a');
  const PieceList& pieces = writes.List(batch.first());
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].data, batch.place(0));
}

TEST(WritePiecesTest, LargerMessagesAreWrittenFromWhereTheyWereBuilt) {
  WritePieces writes;
  Batch batch;
  batch.Add(WritePieces::kCopiedMessageBytesMax, 'a');
  batch.Add(WritePieces::kCopiedMessageBytesMax + 8, 'b');
  batch.Add(64, 'c');
  batch.Add(64, 'd');
  batch.Add(100'000, 'e');
  const PieceList& pieces = writes.List(batch.first());
  EXPECT_EQ(Batch::BytesOf(pieces), batch.Bytes());
  ASSERT_EQ(pieces.size(), 4u);
  EXPECT_NE(pieces[0].data, batch.place(0));
  EXPECT_EQ(pieces[1].data, batch.place(1));
  EXPECT_EQ(pieces[2].size, 128u);
  EXPECT_EQ(pieces[3].data, batch.place(4));
}

TEST(WritePiecesTest, AMessageInSeveralPiecesIsCopiedWhole) {
  WritePieces writes;
  Batch batch;
  batch.Add(64, 'a');
  OutgoingMessage parts = NewHeapMessage(0);
  parts->header.type = FrameType::kCall;
  parts->header.target = TargetKind::kService;
  auto list = parts->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(2);
  static const std::vector<capnp::word> outside(4);
  for (uint32_t i = 0; i < list.size(); ++i) {
    const capnp::Data::Reader part(reinterpret_cast<const kj::byte*>(outside.data()), 8 * (i + 2));
    list.adopt(i, parts->getOrphanage().referenceExternalData(part));
  }
  batch.Add(std::move(parts));
  batch.Add(64, 'b');
  const std::string bytes = batch.Bytes();
  const PieceList& pieces = writes.List(batch.first());
  EXPECT_EQ(pieces.size(), 1u);
  EXPECT_EQ(Batch::BytesOf(pieces), bytes);
}

TEST(WritePiecesTest, WhatDoesNotFitAnyMoreIsNotCopied) {
  WritePieces writes;
  Batch batch;
  constexpr size_t kFit = WritePieces::kCopiedBytesMax / WritePieces::kCopiedMessageBytesMax;
  for (size_t i = 0; i < kFit + 2; ++i) batch.Add(WritePieces::kCopiedMessageBytesMax, 'a');
  const PieceList& pieces = writes.List(batch.first());
  EXPECT_EQ(Batch::BytesOf(pieces), batch.Bytes());
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0].size, WritePieces::kCopiedBytesMax);
  EXPECT_EQ(pieces[2].data, batch.place(kFit + 1));
}

}  // namespace
}  // namespace mi7::transport
