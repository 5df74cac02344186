// What verify-tree says of a store that returns something else than it was given.

#include "examples/files/verify_tree.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <capnp/message.h>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "examples/files/file_service.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"

namespace files {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Changes one bit of what begins with "change".
class ChangingService final : public FileStoreService {
 public:
  explicit ChangingService(FileService* real) : real_(*real) {}

  mi7::Reply Write(mi7::ServerContext& context, FileStore::WriteParams::Reader params,
                   FileStore::WriteResults::Builder results) override {
    const auto data = params.getData().asChars();
    if (!absl::StartsWith(absl::string_view(data.begin(), data.size()), "change")) {
      return real_.Write(context, params, results);
    }
    // The real one takes them apart before it returns.
    capnp::MallocMessageBuilder changed;
    changed.setRoot(params);
    changed.getRoot<FileStore::WriteParams>().getData().back() ^= 1;
    return real_.Write(context, changed.getRoot<FileStore::WriteParams>().asReader(), results);
  }

#define FILES_FORWARD(Method)                                                              \
  mi7::Reply Method(mi7::ServerContext& context, FileStore::Method##Params::Reader params, \
                    FileStore::Method##Results::Builder results) override {                \
    return real_.Method(context, params, results);                                         \
  }
  FILES_FORWARD(Stat)
  FILES_FORWARD(List)
  FILES_FORWARD(Read)
  FILES_FORWARD(MakeDirectory)
  FILES_FORWARD(Remove)
  FILES_FORWARD(Create)
  FILES_FORWARD(Finish)
  FILES_FORWARD(Abort)
#undef FILES_FORWARD

 private:
  FileService& real_;
};

class VerifyTreeTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(top_);
    fs::create_directories(top_ / "store");
    fs::create_directories(top_ / "tree");
    absl::StatusOr<std::unique_ptr<FileService>> real = FileService::Create(top_ / "store", {});
    ASSERT_THAT(real, mi7::IsOk());
    real_ = *std::move(real);
    changing_ = std::make_unique<ChangingService>(real_.get());
    absl::StatusOr<std::unique_ptr<mi7::Server>> server =
        mi7::ServerBuilder().AddService(changing_.get()).Listen("inproc:verify").Start();
    ASSERT_THAT(server, mi7::IsOk());
    server_ = *std::move(server);
  }
  void TearDown() override { fs::remove_all(top_); }

  absl::Status Verify(const std::vector<std::string>& contents) {
    for (size_t i = 0; i < contents.size(); ++i) {
      std::ofstream(top_ / "tree" / std::to_string(i), std::ios::binary) << contents[i];
    }
    const FileStoreStub store(mi7::Channel::Create("inproc:verify").value());
    return VerifyTree(store, top_ / "tree", {});
  }

  const fs::path top_ = fs::path(testing::TempDir()) / "verify_tree_test";
  std::unique_ptr<FileService> real_;
  std::unique_ptr<ChangingService> changing_;
  std::unique_ptr<mi7::Server> server_;
};

TEST_F(VerifyTreeTest, WhatComesBackTheSameIsRight) {
  EXPECT_THAT(Verify({"as it is", "", std::string(100'000, 'x')}), mi7::IsOk());
}

TEST_F(VerifyTreeTest, OneChangedBitIsFound) {
  testing::internal::CaptureStdout();
  const absl::Status verified = Verify({"as it is", "change me", "as it is"});
  const std::string printed = testing::internal::GetCapturedStdout();
  EXPECT_THAT(verified,
              mi7::StatusIs(absl::StatusCode::kDataLoss,
                            HasSubstr("1 of 3 files and directories came back different")));
  EXPECT_THAT(printed, HasSubstr("mismatches 1\n"));
  EXPECT_THAT(printed, HasSubstr("mismatch  1: SHA-256 differs\n"));
}

}  // namespace
}  // namespace files
