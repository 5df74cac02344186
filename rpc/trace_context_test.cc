#include "rpc/trace_context.h"

#include <string>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace mi7 {
namespace {

constexpr absl::string_view kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContextTest, ParsesAndWritesTheSame) {
  const std::optional<TraceContext> trace = TraceContext::Parse(kParent, "rojo=00f067aa0ba902b7");
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id_hex(), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(trace->span_id_hex(), "b7ad6b7169203331");
  EXPECT_TRUE(trace->sampled());
  EXPECT_EQ(trace->state, "rojo=00f067aa0ba902b7");
  EXPECT_EQ(trace->traceparent(), kParent);
}

TEST(TraceContextTest, KnownFlagsAreKept) {
  const auto flags = [](absl::string_view hex) -> int {
    const auto trace = TraceContext::Parse(absl::StrCat(kParent.substr(0, 53), hex), "");
    return trace ? trace->flags : -1;
  };
  EXPECT_EQ(flags("00"), 0);
  EXPECT_EQ(flags("03"), TraceContext::kSampled | TraceContext::kRandom);
  EXPECT_EQ(flags("ff"), TraceContext::kSampled | TraceContext::kRandom);
}

TEST(TraceContextTest, AMalformedTraceparentIsNone) {
  for (const absl::string_view text : {
           "",
           "00",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
           "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01",
           "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333x-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
           "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
       }) {
    EXPECT_FALSE(TraceContext::Parse(text, "").has_value()) << text;
  }
}

TEST(TraceContextTest, ALaterVersionIsReadAsFarAsItIsKnown) {
  for (const absl::string_view text :
       {"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings"}) {
    const auto trace = TraceContext::Parse(text, "");
    ASSERT_TRUE(trace.has_value()) << text;
    EXPECT_EQ(trace->traceparent(), kParent);
  }
}

TEST(TraceContextTest, AMalformedTracestateAloneIsDropped) {
  std::string members;
  for (int i = 0; i < 32; ++i) absl::StrAppend(&members, i == 0 ? "" : ",", "k", i, "=v");
  for (const std::string& state :
       {std::string("a=1"), std::string("a=1,b=2"), std::string("a=1 , b=2\t,"), std::string(",,"),
        std::string("tenant@vendor=x/y:z"), std::string("0a_-*/=v"),
        absl::StrCat("k=", std::string(256, 'v')), members, std::string("a= b")}) {
    const auto trace = TraceContext::Parse(kParent, state);
    ASSERT_TRUE(trace.has_value());
    EXPECT_EQ(trace->state, state);
  }
  for (const std::string& state :
       {std::string("a"), std::string("=1"), std::string("a="), std::string("A=1"),
        std::string("a=1,a=2"), std::string("a=1\n"), std::string("\n,a=1"), std::string("a=\x01"),
        std::string("a=1=2"), std::string("a=\xc3\xa4"), std::string("@v=1"), std::string("t@=1"),
        std::string("a@b@c=1"), absl::StrCat("k=", std::string(257, 'v')),
        absl::StrCat(std::string(257, 'k'), "=v"), absl::StrCat(members, ",one-more=v"),
        absl::StrCat("a=", std::string(255, 'v'), ",b=", std::string(255, 'v'))}) {
    const auto trace = TraceContext::Parse(kParent, state);
    ASSERT_TRUE(trace.has_value()) << state;
    EXPECT_EQ(trace->state, "") << state;
    EXPECT_EQ(trace->traceparent(), kParent);
  }
}

TEST(TraceContextTest, ARootIsNewAndItsChildBelongsToIt) {
  const TraceContext root = TraceContext::NewRoot(/*sampled=*/true);
  EXPECT_TRUE(root.sampled());
  EXPECT_FALSE(TraceContext::NewRoot(/*sampled=*/false).sampled());
  EXPECT_NE(root.trace_id, TraceContext::NewRoot(true).trace_id);
  EXPECT_TRUE(TraceContext::Parse(root.traceparent(), "").has_value());

  TraceContext parent = root;
  parent.state = "a=1";
  const TraceContext child = parent.NewChild();
  EXPECT_EQ(child.trace_id, parent.trace_id);
  EXPECT_NE(child.span_id, parent.span_id);
  EXPECT_EQ(child.flags, parent.flags);
  EXPECT_EQ(child.state, parent.state);
}

}  // namespace
}  // namespace mi7
