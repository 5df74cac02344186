#include "transport/size_guess.h"

#include <gtest/gtest.h>

namespace mi7::transport {
namespace {

TEST(SizeGuessTest, NothingKnownIsSmall) { EXPECT_EQ(SizeGuess().bytes(), SizeGuess::kSmallBytes); }

TEST(SizeGuessTest, OneLargeMessageIsBelieved) {
  SizeGuess guess;
  guess.Learn(SizeGuess::kSmallBytes);
  EXPECT_EQ(guess.bytes(), SizeGuess::kSmallBytes);
  guess.Learn(SizeGuess::kSmallBytes + 1);
  EXPECT_EQ(guess.bytes(), SizeGuess::kOtherBytes);
}

TEST(SizeGuessTest, SmallIsBelievedAgainAfterManyInARow) {
  SizeGuess guess;
  guess.Learn(1 << 20);
  for (int i = 0; i < 100; ++i) {  // mixed: stays on the safe side
    guess.Learn(8);
    guess.Learn(1 << 20);
    EXPECT_EQ(guess.bytes(), SizeGuess::kOtherBytes);
  }
  for (int i = 0; i < 15; ++i) guess.Learn(8);
  EXPECT_EQ(guess.bytes(), SizeGuess::kOtherBytes);
  guess.Learn(8);
  EXPECT_EQ(guess.bytes(), SizeGuess::kSmallBytes);
}

TEST(SizeGuessTest, AKindKeepsItsGuess) {
  SizeGuess::For(0x123456789abcdef0).Learn(1 << 20);
  EXPECT_EQ(SizeGuess::For(0x123456789abcdef0).bytes(), SizeGuess::kOtherBytes);
  EXPECT_EQ(&SizeGuess::For(7), &SizeGuess::For(7));
  EXPECT_NE(&SizeGuess::For(7), &SizeGuess::For(8));
}

}  // namespace
}  // namespace mi7::transport
