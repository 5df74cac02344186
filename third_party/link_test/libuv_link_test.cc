#include <uv.h>

#include "gtest/gtest.h"

namespace {

TEST(LibuvTest, LoopRunsUntilNothingIsLeft) {
  uv_loop_t loop;
  ASSERT_EQ(uv_loop_init(&loop), 0);
  EXPECT_EQ(uv_run(&loop, UV_RUN_DEFAULT), 0);
  EXPECT_EQ(uv_loop_close(&loop), 0);
}

}  // namespace
