// Root, with the kernel's lookup and with its own.

#include "examples/files/root.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "examples/files/paths.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace files {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

class RootTest : public testing::TestWithParam<Root::Lookup> {
 protected:
  // outside/secret and root/{file,dir/file,dir/deep/file}; root_ serves root.
  void SetUp() override {
    top_ = fs::path(testing::TempDir()) / "root_test";
    fs::remove_all(top_);
    fs::create_directories(top_ / "root/dir/deep");
    fs::create_directories(top_ / "outside");
    for (const char* file :
         {"outside/secret", "root/file", "root/dir/file", "root/dir/deep/file"}) {
      std::ofstream(top_ / file) << file;
    }
    absl::StatusOr<Root> root = Root::Open(top_ / "root", GetParam());
    if (absl::IsUnimplemented(root.status())) {
      std::fprintf(stderr, "NOTICE: test not run, %s\n", root.status().ToString().c_str());
      GTEST_SKIP();
    }
    ASSERT_TRUE(root.ok()) << root.status();
    root_.emplace(*std::move(root));
  }
  void TearDown() override { fs::remove_all(top_); }

  // What is in the file, or why not.
  absl::StatusOr<std::string> Content(const std::string& path) const {
    absl::StatusOr<Fd> fd = root_->OpenToRead(path, O_RDONLY);
    if (!fd.ok()) return fd.status();
    std::string content(100, '\0');
    const ssize_t size = ::read(fd->get(), content.data(), content.size());
    if (size < 0) return ErrnoStatus(errno, "read", path);
    content.resize(static_cast<size_t>(size));
    return content;
  }
  bool kernel() const { return GetParam() == Root::Lookup::kKernel; }

  fs::path top_;
  std::optional<Root> root_;
};

std::string LookupName(const testing::TestParamInfo<Root::Lookup>& lookup) {
  return lookup.param == Root::Lookup::kKernel ? "Kernel" : "Components";
}

INSTANTIATE_TEST_SUITE_P(Lookups, RootTest,
                         testing::Values(Root::Lookup::kKernel, Root::Lookup::kComponents),
                         LookupName);

void ExpectStatus(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

TEST_P(RootTest, OpensWhatIsThere) {
  EXPECT_EQ(Content("file").value(), "root/file");
  EXPECT_EQ(Content("dir/deep/file").value(), "root/dir/deep/file");
  EXPECT_TRUE(root_->OpenToRead(".", O_RDONLY | O_DIRECTORY).ok());
  EXPECT_TRUE(root_->OpenToRead("dir/deep", O_PATH).ok());
}

TEST_P(RootTest, MissingThingsAreNotFound) {
  ExpectStatus(Content("none").status(), absl::StatusCode::kNotFound, "'none'");
  ExpectStatus(Content("none/file").status(), absl::StatusCode::kNotFound, "'none/file'");
  ExpectStatus(root_->Locate("none/file").status(), absl::StatusCode::kNotFound, "'none/file'");
}

TEST_P(RootTest, FileIsNoDirectory) {
  ExpectStatus(Content("file/file").status(), absl::StatusCode::kFailedPrecondition, "'file/file'");
  ExpectStatus(root_->Locate("file/x").status(), absl::StatusCode::kFailedPrecondition, "'file/x'");
}

TEST_P(RootTest, LinksOutAreRefused) {
  fs::create_symlink("../outside/secret", top_ / "root/relative");
  fs::create_symlink(top_ / "outside/secret", top_ / "root/absolute");
  fs::create_symlink("../outside", top_ / "root/directory");
  fs::create_symlink("../../outside", top_ / "root/dir/directory");
  fs::create_symlink("directory", top_ / "root/chain");
  for (const char* path : {"relative", "absolute", "directory/secret", "dir/directory/secret",
                           "chain/secret", "directory", "chain"}) {
    ExpectStatus(Content(path).status(), absl::StatusCode::kPermissionDenied, path);
    ExpectStatus(root_->OpenToRead(path, O_PATH).status(), absl::StatusCode::kPermissionDenied,
                 path);
  }
  for (const char* path : {"directory/new", "dir/directory/new", "chain/new"}) {
    ExpectStatus(root_->Locate(path).status(), absl::StatusCode::kPermissionDenied, path);
  }
}

TEST_P(RootTest, MagicLinksAreRefused) {
  fs::create_symlink("/proc/self/cwd", top_ / "root/cwd");
  fs::create_symlink("/proc/self/root", top_ / "root/system");
  ExpectStatus(root_->OpenToRead("cwd", O_PATH).status(), absl::StatusCode::kPermissionDenied,
               "cwd");
  ExpectStatus(Content("system/etc/passwd").status(), absl::StatusCode::kPermissionDenied,
               "system/etc/passwd");
}

TEST_P(RootTest, LinksInsideLeadToReadersOnly) {
  fs::create_symlink("dir/deep", top_ / "root/inside");
  fs::create_symlink("../file", top_ / "root/dir/up");
  if (kernel()) {
    EXPECT_EQ(Content("inside/file").value(), "root/dir/deep/file");
    EXPECT_EQ(Content("dir/up").value(), "root/file");
  } else {
    ExpectStatus(Content("inside/file").status(), absl::StatusCode::kPermissionDenied, "inside");
    ExpectStatus(Content("dir/up").status(), absl::StatusCode::kPermissionDenied, "dir/up");
  }
  ExpectStatus(root_->Locate("inside/new").status(), absl::StatusCode::kPermissionDenied,
               "symbolic link");
}

TEST_P(RootTest, LoopsOfLinksAreRefused) {
  fs::create_symlink("b", top_ / "root/a");
  fs::create_symlink("a", top_ / "root/b");
  ExpectStatus(Content("a").status(), absl::StatusCode::kPermissionDenied, "'a'");
}

TEST_P(RootTest, OpeningAPipeDoesNotWaitForItsOtherSide) {
  ASSERT_EQ(::mkfifo((top_ / "root/pipe").c_str(), 0600), 0);
  EXPECT_TRUE(root_->OpenToRead("pipe", O_RDONLY).ok());
}

TEST_P(RootTest, LocatesNewAndExistingNames) {
  const Root::Place made = root_->Locate("dir/new").value();
  EXPECT_EQ(made.name, "new");
  ASSERT_EQ(::mkdirat(made.directory.get(), made.name.c_str(), 0700), 0);
  EXPECT_TRUE(fs::is_directory(top_ / "root/dir/new"));
  EXPECT_EQ(root_->Locate("file").value().name, "file");
}

TEST_P(RootTest, TheRootItselfHasNoPlace) {
  ExpectStatus(root_->Locate(".").status(), absl::StatusCode::kFailedPrecondition, "'.'");
}

TEST_P(RootTest, WrongPathsAreRefusedWithoutALook) {
  for (const char* path : {"", "/", "/etc/passwd", "..", "../x", "dir/../file", "dir/..", "./file",
                           "dir//file", "dir/", "dir/."}) {
    EXPECT_EQ(Content(path).status().code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_EQ(root_->Locate(path).status().code(), absl::StatusCode::kInvalidArgument) << path;
  }
}

TEST(RootOpenTest, NamesWhatCannotBeServed) {
  const fs::path file = fs::path(testing::TempDir()) / "root_open_test";
  std::ofstream(file) << "x";
  ExpectStatus(Root::Open(file).status(), absl::StatusCode::kFailedPrecondition, file);
  fs::remove(file);
  ExpectStatus(Root::Open(file).status(), absl::StatusCode::kNotFound, file);
}

TEST(CheckPathTest, SaysWhatIsWrong) {
  const auto expect = [](const std::string& path, const std::string& text) {
    ExpectStatus(CheckPath(path), absl::StatusCode::kInvalidArgument, text);
  };
  expect("", "'' is empty");
  expect("/etc", "'/etc' is absolute");
  expect("../x", "'../x' holds '..'");
  expect("a/../b", "holds '..'");
  expect("a/./b", "holds '.'");
  expect("a//b", "holds '//'");
  expect("a/", "ends in '/'");
  expect(std::string("a\0-", 3), "'a\\x00-' holds a NUL byte");
  expect(std::string(256, 'n'), "a name of 256 bytes; at most 255");
  std::string endless;
  for (int i = 0; i < 2048; ++i) endless += "d/";
  expect(endless + "f", "has 4097 bytes; at most 4095");
}

TEST(CheckPathTest, AcceptsWhatFilesAreCalled) {
  for (const std::string& path :
       {std::string("."), std::string("a"), std::string("a/b.c"), std::string("..."),
        std::string("..a/b.."), std::string(".hidden"), std::string("with space\n"),
        std::string("\xff\xfe"), std::string(255, 'n')}) {
    EXPECT_EQ(CheckPath(path), absl::OkStatus());
  }
}

TEST(QuotedTest, EscapesAndShortens) {
  EXPECT_EQ(Quoted("a\n\x1b[0m"), "'a\\n\\x1b[0m'");
  EXPECT_EQ(Quoted("für"), "'für'");
  EXPECT_LT(Quoted(std::string(100'000, 'x')).size(), 300u);
}

}  // namespace
}  // namespace files
