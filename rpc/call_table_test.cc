#include "rpc/call_table.h"

#include <array>
#include <cstdint>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// Calls that nobody looks into.
ClientCall* Call(size_t index) {
  alignas(8) static std::array<uint64_t, 200> places;
  return reinterpret_cast<ClientCall*>(&places[index]);
}

TEST(CallTableTest, IdsAreDenseAndTheOneFreedLastComesNext) {
  CallTable table;
  EXPECT_EQ(table.At(0), nullptr);
  EXPECT_EQ(table.Add(Call(0)), 0u);
  EXPECT_EQ(table.Add(Call(1)), 1u);
  EXPECT_EQ(table.Add(Call(2)), 2u);
  table.Free(0);
  table.Free(2);
  EXPECT_EQ(table.At(0), nullptr);
  EXPECT_EQ(table.At(1), Call(1));
  EXPECT_EQ(table.At(2), nullptr);
  EXPECT_EQ(table.in_use(), 1u);
  EXPECT_EQ(table.Add(Call(3)), 2u);
  EXPECT_EQ(table.Add(Call(4)), 0u);
  EXPECT_EQ(table.Add(Call(5)), 3u);
  EXPECT_EQ(table.At(0), Call(4));
  EXPECT_EQ(table.At(4), nullptr);
  EXPECT_EQ(table.in_use(), 4u);
}

TEST(CallTableTest, AnIdCanPassToAnotherCall) {
  CallTable table;
  table.Add(Call(0));
  table.Replace(0, Call(1));
  EXPECT_EQ(table.At(0), Call(1));
  EXPECT_EQ(table.in_use(), 1u);
}

TEST(CallTableTest, AllAreTakenAtOnce) {
  CallTable table;
  for (size_t i = 0; i < 4; ++i) table.Add(Call(i));
  table.Free(1);
  EXPECT_THAT(table.TakeAll(), ElementsAre(Call(0), Call(2), Call(3)));
  EXPECT_THAT(table.TakeAll(), IsEmpty());
  EXPECT_EQ(table.in_use(), 0u);
  EXPECT_EQ(table.At(0), nullptr);
  EXPECT_EQ(table.Add(Call(5)), 0u);
}

TEST(CallTableTest, AnEmptyTableThatWasLargeBeginsAgain) {
  CallTable table;
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(table.Add(Call(i)), i);
  for (uint32_t i = 0; i < 100; ++i) table.Free(i);
  EXPECT_EQ(table.in_use(), 0u);
  EXPECT_EQ(table.Add(Call(0)), 0u);
  EXPECT_EQ(table.Add(Call(1)), 1u);
  EXPECT_EQ(table.At(99), nullptr);
}

}  // namespace
}  // namespace mi7
