// Messages with several handles: ShareMessage.

#include <atomic>
#include <cstddef>
#include <thread>
#include <utility>

#include <capnp/any.h>
#include <gtest/gtest.h>

#include "transport/message.h"

namespace mi7::transport {
namespace {

TEST(ShareMessageTest, SharedMessageLivesAsLongAsOneOfItsHandles) {
  for (const bool first_goes_first : {true, false}) {
    SCOPED_TRACE(first_goes_first);
    OutgoingMessage first = NewHeapMessage(64);
    first->getRoot<capnp::AnyPointer>().setAs<capnp::Text>("a text");
    EXPECT_TRUE(IsSole(*first));
    OutgoingMessage second = ShareMessage(*first, 4096);
    ASSERT_TRUE(second);
    EXPECT_EQ(first.get(), second.get());
    EXPECT_FALSE(IsSole(*first));
    OutgoingMessage& left = first_goes_first ? second : first;
    (first_goes_first ? first : second).reset();
    EXPECT_TRUE(IsSole(*left));
    EXPECT_EQ(left->getRoot<capnp::AnyPointer>().getAs<capnp::Text>(), "a text");
    // It can be shared once more.
    OutgoingMessage third = ShareMessage(*left, 4096);
    EXPECT_FALSE(IsSole(*left));
    // The last one gives the memory back, zero.
    third.reset();
    left.reset();
    OutgoingMessage next = NewHeapMessage(64);
    EXPECT_TRUE(IsSole(*next));
  }
}

TEST(ShareMessageTest, OnlySmallMessagesAreShared) {
  OutgoingMessage message = NewHeapMessage(1 << 16);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(1000);
  EXPECT_FALSE(ShareMessage(*message, 1000)) << "the pointers count as well";
  EXPECT_TRUE(IsSole(*message));
  EXPECT_TRUE(ShareMessage(*message, 2000));
  OutgoingMessage segments = NewHeapMessage(0);
  auto list = segments->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(2);
  list.init(0, 3000);
  list.init(1, 100'000);
  ASSERT_GT(segments->Segments().size(), 1u);
  EXPECT_FALSE(ShareMessage(*segments, 103'000)) << "all segments count";
  OutgoingMessage second = ShareMessage(*segments, 104'000);
  ASSERT_TRUE(second);
  segments.reset();
  EXPECT_EQ(second->getRoot<capnp::AnyPointer>().getAs<capnp::List<capnp::Data>>()[1].size(),
            100'000u);
}

TEST(ShareMessageTest, WhatLiesWhereThePeerReadsItMayBeLostOnceItWasSent) {
  struct Memory final : SegmentSource, FurtherSegments {
    const SegmentSource* source() const override { return this; }
    FurtherSegments* NewFurtherSegments() override { return this; }
    kj::ArrayPtr<capnp::word> Allocate(size_t minimum_bytes, size_t, bool) override {
      return kj::arrayPtr(words, 1024).slice(0, minimum_bytes / sizeof(capnp::word));
    }
    void Drop(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>) override {}
    void GiveUp(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>) override {}
    bool WhileKept(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments,
                   absl::FunctionRef<void(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>)>
                       read) override {
      if (kept) read(segments.slice(1, segments.size()));
      return kept;
    }
    bool kept = true;
    capnp::word words[1024] = {};
  };
  Memory memory;
  OutgoingMessage message = NewHeapMessage(0);
  message->segment_source = &memory;
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(6000);
  ASSERT_EQ(message->Segments().size(), 2u);
  EXPECT_TRUE(IsSole(*message));
  EXPECT_FALSE(ShareMessage(*message, 6000));
  EXPECT_TRUE(IsSole(*message));
  OutgoingMessage second = ShareMessage(*message, 1 << 20);
  ASSERT_TRUE(second);
  EXPECT_FALSE(IsSole(*message));
  second.reset();
  EXPECT_FALSE(IsSole(*message)) << "the peer may have it";
  int reads = 0;
  const auto read = [&](kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
    EXPECT_EQ(segments.size(), 1u) << "what the memory's owner says";
    EXPECT_EQ(segments.begin(), message->Segments().begin() + 1);
    ++reads;
  };
  EXPECT_TRUE(ReadShared(*message, read));
  EXPECT_EQ(reads, 1);
  memory.kept = false;
  EXPECT_FALSE(ReadShared(*message, read));
  EXPECT_EQ(reads, 1);
}

TEST(ShareMessageTest, WhatAMessageHoldsIsAllThatItTook) {
  OutgoingMessage message = NewHeapMessage(300'000);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(10);
  EXPECT_GE(message->HeldBytes(), 300'000u) << "written to or not";
  EXPECT_LT(message->HeldBytes(), 350'000u);
  const size_t first = message->HeldBytes();
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(1'000'000);
  EXPECT_GE(message->HeldBytes(), first + 1'000'000);
}

TEST(ShareMessageTest, HandlesOfASharedMessageMayGoAtTheSameTime) {
  for (int i = 0; i < 2000; ++i) {
    OutgoingMessage first = NewHeapMessage(64);
    first->getRoot<capnp::AnyPointer>().setAs<capnp::Text>("a text");
    OutgoingMessage second = ShareMessage(*first, 4096);
    std::atomic<int> ready{0};
    const auto drop = [&ready](OutgoingMessage message) {
      ++ready;
      while (ready != 2) std::this_thread::yield();
      message.reset();
    };
    std::thread other(drop, std::move(second));
    drop(std::move(first));
    other.join();
  }
}

}  // namespace
}  // namespace mi7::transport
