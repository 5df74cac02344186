// The slot pipe is a library of its own: a program needs nothing else of mi7.

#include <stdlib.h>

#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"

TEST(JobsTest, AJobIsReadWhereItWasWritten) {
  ::setenv("MI7_RUNTIME_DIR", ::getenv("TEST_TMPDIR"), 1);
  auto pipe = mi7::SlotPipe::OpenOrCreate("jobs", mi7::PipeOptions::Small());
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  ASSERT_TRUE((*pipe)->SendBytes("print page 7").ok());
  auto job = (*pipe)->Fetch();
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->text(), "print page 7");
  EXPECT_TRUE(job->Release().ok());
}
