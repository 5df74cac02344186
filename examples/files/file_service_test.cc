// The file store through calls: what each method does, and what it refuses.

#include "examples/files/file_service.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/deadline.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rpc/channel.h"
#include "rpc/server.h"

namespace files {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

mi7::CallOptions InTime() { return {.deadline = mi7::Deadline::After(absl::Seconds(60))}; }

void ExpectStatus(const absl::Status& status, absl::StatusCode code, const std::string& text) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

// With its NUL bytes, at the first of which Cap'n Proto's conversion of a std::string ends.
capnp::Text::Reader ToText(const std::string& text) { return {text.c_str(), text.size()}; }

class FileServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    top_ = fs::path(testing::TempDir()) / "file_service_test";
    fs::remove_all(top_);
    fs::create_directories(top_);
    Start({});
  }
  void TearDown() override {
    Stop();
    fs::remove_all(top_);
  }

  void Start(const FileService::Options& options) {
    absl::StatusOr<std::unique_ptr<FileService>> service = FileService::Create(top_, options);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    absl::StatusOr<std::unique_ptr<mi7::Server>> server =
        mi7::ServerBuilder().AddService(service_.get()).Listen("inproc:files").Start();
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    store_.emplace(mi7::Channel::Create("inproc:files").value());
  }
  void Stop() {
    store_.reset();
    server_.reset();
    service_.reset();
  }

  // --- Local files ---

  void Put(const std::string& path, const std::string& content) const {
    std::ofstream(top_ / path) << content;
  }
  std::string Local(const std::string& path) const {
    std::ostringstream content;
    content << std::ifstream(top_ / path).rdbuf();
    return content.str();
  }
  std::vector<std::string> LocalNames() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(top_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  // --- Calls ---

  struct Info {
    Kind kind;
    uint64_t size;
    int mode;
    uint64_t version;
  };
  absl::StatusOr<Info> Stat(const std::string& path) {
    auto request = store_->Stat(InTime());
    request->setPath(ToText(path));
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    const auto info = response->getInfo();
    return Info{info.getKind(), info.getSize(), info.getMode(), info.getVersion()};
  }

  // Names of one page, "..." at its end when there are more.
  absl::StatusOr<std::vector<std::string>> List(const std::string& path,
                                                const std::string& after = "", uint32_t limit = 0) {
    auto request = store_->List(InTime());
    request->setPath(ToText(path));
    request->setAfter(ToText(after));
    request->setLimit(limit);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    std::vector<std::string> names;
    for (Entry::Reader entry : response->getEntries()) names.push_back(entry.getName().cStr());
    if (response->getMore()) names.push_back("...");
    return names;
  }

  absl::StatusOr<std::string> Read(const std::string& path, uint64_t offset = 0,
                                   uint32_t size = RANGE_BYTES_MAX, uint64_t version = 0) {
    auto request = store_->Read(InTime());
    request->setPath(ToText(path));
    request->setOffset(offset);
    request->setSize(size);
    request->setVersion(version);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    const auto data = response->getData();
    return std::string(reinterpret_cast<const char*>(data.begin()), data.size());
  }

  absl::Status MakeDirectory(const std::string& path, uint16_t mode = 0755) {
    auto request = store_->MakeDirectory(InTime());
    request->setPath(ToText(path));
    request->setMode(mode);
    return request.Send().Wait().status();
  }

  absl::Status Remove(const std::string& path) {
    auto request = store_->Remove(InTime());
    request->setPath(ToText(path));
    return request.Send().Wait().status();
  }

  absl::StatusOr<uint64_t> Create(const std::string& path, bool replace = false,
                                  uint16_t mode = 0644) {
    auto request = store_->Create(InTime());
    request->setPath(ToText(path));
    request->setMode(mode);
    request->setReplace(replace);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    return response->getUpload();
  }

  absl::Status Write(uint64_t upload, uint64_t offset, const std::string& content) {
    auto request = store_->Write(InTime());
    request->setUpload(upload);
    request->setOffset(offset);
    request->setData(
        capnp::Data::Reader(reinterpret_cast<const kj::byte*>(content.data()), content.size()));
    return request.Send().Wait().status();
  }

  absl::StatusOr<uint64_t> Finish(uint64_t upload, uint64_t size) {
    auto request = store_->Finish(InTime());
    request->setUpload(upload);
    request->setSize(size);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    return response->getInfo().getSize();
  }

  absl::Status Abort(uint64_t upload) {
    auto request = store_->Abort(InTime());
    request->setUpload(upload);
    return request.Send().Wait().status();
  }

  fs::path top_;
  std::unique_ptr<FileService> service_;
  std::unique_ptr<mi7::Server> server_;
  absl::optional<FileStoreStub> store_;
};

TEST_F(FileServiceTest, StatTellsKindSizeAndMode) {
  Put("file", "12345");
  ::chmod((top_ / "file").c_str(), 0640);
  fs::create_directory(top_ / "dir");
  fs::create_symlink("file", top_ / "link");
  const Info file = Stat("file").value();
  EXPECT_EQ(file.kind, Kind::FILE);
  EXPECT_EQ(file.size, 5u);
  EXPECT_EQ(file.mode, 0640);
  EXPECT_EQ(Stat("dir").value().kind, Kind::DIRECTORY);
  EXPECT_EQ(Stat(".").value().kind, Kind::DIRECTORY);
  EXPECT_EQ(Stat("link").value().size, 5u) << "the file that it leads to";
}

TEST_F(FileServiceTest, EveryMethodRefusesWrongPaths) {
  const std::string wrong[] = {
      "",     "../x", "/etc/passwd",         "a/../../x",           std::string("a\0b", 3),
      "a//b", "a/",   std::string(256, 'n'), std::string(5000, '/')};
  for (const std::string& path : wrong) {
    for (const absl::Status& status :
         {Stat(path).status(), List(path).status(), Read(path).status(), MakeDirectory(path),
          Remove(path), Create(path).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    }
  }
}

TEST_F(FileServiceTest, EveryMethodRefusesToFollowLinksOut) {
  const fs::path outside = fs::path(testing::TempDir()) / "file_service_test_outside";
  fs::create_directories(outside);
  std::ofstream(outside / "secret") << "secret";
  fs::create_symlink(outside, top_ / "out");
  for (const absl::Status& status :
       {Stat("out/secret").status(), List("out").status(), Read("out/secret").status(),
        MakeDirectory("out/new"), Remove("out/secret"), Create("out/new").status(),
        Create("out/secret", true).status()}) {
    ExpectStatus(status, absl::StatusCode::kPermissionDenied, "'out");
  }
  EXPECT_THAT(List(".").value(), ElementsAre("out")) << "the link itself can be seen";
  EXPECT_EQ(Remove("out"), absl::OkStatus()) << "and removed";
  EXPECT_TRUE(fs::exists(outside / "secret"));
  fs::remove_all(outside);
}

TEST_F(FileServiceTest, EveryMethodNamesWhatIsMissing) {
  for (const absl::Status& status :
       {Stat("no/x").status(), List("no/x").status(), Read("no/x").status(), MakeDirectory("no/x"),
        Remove("no/x"), Create("no/x").status()}) {
    ExpectStatus(status, absl::StatusCode::kNotFound, "'no/x'");
  }
}

TEST_F(FileServiceTest, ListsInPages) {
  EXPECT_THAT(List(".").value(), IsEmpty());
  for (const char* name : {"d", "b", "a", "c"}) Put(name, name);
  EXPECT_THAT(List(".").value(), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(List(".", "", 2).value(), ElementsAre("a", "b", "..."));
  EXPECT_THAT(List(".", "b", 2).value(), ElementsAre("c", "d"));
  EXPECT_THAT(List(".", "bb", 1).value(), ElementsAre("c", "..."));
  EXPECT_THAT(List(".", "d").value(), IsEmpty());
  ExpectStatus(List("a").status(), absl::StatusCode::kFailedPrecondition, "'a'");
}

TEST_F(FileServiceTest, PagesHaveABound) {
  for (uint32_t i = 0; i <= ENTRIES_MAX; ++i) Put(absl::StrCat("f", i), "");
  EXPECT_EQ(List(".").value().size(), ENTRIES_MAX + 1) << "with the mark that there are more";
  EXPECT_EQ(List(".", "", 1'000'000).value().size(), ENTRIES_MAX + 1);
}

TEST_F(FileServiceTest, ReadsRanges) {
  Put("file", "0123456789");
  EXPECT_EQ(Read("file").value(), "0123456789");
  EXPECT_EQ(Read("file", 3, 4).value(), "3456");
  EXPECT_EQ(Read("file", 8, 4).value(), "89");
  EXPECT_EQ(Read("file", 10, 4).value(), "");
  EXPECT_EQ(Read("file", ~uint64_t{0}, 4).value(), "");
  EXPECT_EQ(Read("file", 0, 0).value(), "");
  ExpectStatus(Read("file", 0, RANGE_BYTES_MAX + 1).status(), absl::StatusCode::kInvalidArgument,
               "at most 1048576");
}

TEST_F(FileServiceTest, ReadsTheLargestRange) {
  std::string content(RANGE_BYTES_MAX, 'x');
  content.back() = 'y';
  Put("file", content);
  EXPECT_TRUE(Read("file").value() == content);
}

TEST_F(FileServiceTest, ReadsFilesOnly) {
  fs::create_directory(top_ / "dir");
  ASSERT_EQ(::mkfifo((top_ / "pipe").c_str(), 0600), 0);
  ExpectStatus(Read("dir").status(), absl::StatusCode::kFailedPrecondition, "list it instead");
  ExpectStatus(Read("pipe").status(), absl::StatusCode::kFailedPrecondition, "no regular file");
}

TEST_F(FileServiceTest, ReadOfAnOlderVersionFails) {
  Put("file", "old");
  const uint64_t version = Stat("file").value().version;
  EXPECT_EQ(Read("file", 0, 10, version).value(), "old");
  Put("file", "newer");
  ExpectStatus(Read("file", 0, 10, version).status(), absl::StatusCode::kFailedPrecondition,
               "has changed");
}

TEST_F(FileServiceTest, MakesDirectoriesWithTheirMode) {
  EXPECT_EQ(MakeDirectory("dir", 0700), absl::OkStatus());
  EXPECT_EQ(MakeDirectory("dir/inner", 0777), absl::OkStatus());
  EXPECT_EQ(Stat("dir").value().mode, 0700);
  EXPECT_EQ(Stat("dir/inner").value().mode, 0777);
  ExpectStatus(MakeDirectory("dir"), absl::StatusCode::kAlreadyExists, "'dir'");
  ExpectStatus(MakeDirectory("set", 04755), absl::StatusCode::kInvalidArgument, "04755");
  ExpectStatus(MakeDirectory("."), absl::StatusCode::kFailedPrecondition, "'.'");
}

TEST_F(FileServiceTest, RemovesFilesAndEmptyDirectories) {
  fs::create_directory(top_ / "dir");
  Put("dir/file", "x");
  ExpectStatus(Remove("dir"), absl::StatusCode::kFailedPrecondition, "'dir'");
  EXPECT_EQ(Remove("dir/file"), absl::OkStatus());
  EXPECT_EQ(Remove("dir"), absl::OkStatus());
  ExpectStatus(Remove("dir"), absl::StatusCode::kNotFound, "'dir'");
  ExpectStatus(Remove("."), absl::StatusCode::kFailedPrecondition, "'.'");
}

TEST_F(FileServiceTest, FileIsNotSeenBeforeItIsFinished) {
  const uint64_t upload = Create("file", false, 0751).value();
  EXPECT_EQ(Write(upload, 4, "4567"), absl::OkStatus());
  EXPECT_EQ(Write(upload, 0, "0123"), absl::OkStatus());
  EXPECT_THAT(List(".").value(), IsEmpty());
  EXPECT_EQ(Stat("file").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Finish(upload, 8).value(), 8u);
  EXPECT_EQ(Local("file"), "01234567");
  EXPECT_EQ(Stat("file").value().mode, 0751);
}

TEST_F(FileServiceTest, ReadersSeeTheOldFileUntilTheNewOneIsFinished) {
  Put("file", "old");
  ExpectStatus(Create("file").status(), absl::StatusCode::kAlreadyExists, "'file'");
  const uint64_t upload = Create("file", true).value();
  EXPECT_EQ(Write(upload, 0, "the new one"), absl::OkStatus());
  EXPECT_EQ(Read("file").value(), "old");
  EXPECT_EQ(Finish(upload, 11).value(), 11u);
  EXPECT_EQ(Read("file").value(), "the new one");
}

TEST_F(FileServiceTest, FinishCutsWhatIsTooLong) {
  const uint64_t upload = Create("file").value();
  EXPECT_EQ(Write(upload, 0, "0123456789"), absl::OkStatus());
  EXPECT_EQ(Finish(upload, 3).value(), 3u);
  EXPECT_EQ(Local("file"), "012");
}

TEST_F(FileServiceTest, FinishRefusesWhatIsTooShort) {
  const uint64_t upload = Create("file").value();
  EXPECT_EQ(Write(upload, 0, "0123"), absl::OkStatus());
  ExpectStatus(Finish(upload, 5).status(), absl::StatusCode::kFailedPrecondition, "4 of 5 bytes");
  ExpectStatus(Finish(upload, 4).status(), absl::StatusCode::kNotFound, "create it again");
  EXPECT_THAT(List(".").value(), IsEmpty());
}

TEST_F(FileServiceTest, SecondOfTwoNewFilesOfOneNameFails) {
  const uint64_t first = Create("file").value();
  const uint64_t second = Create("file").value();
  EXPECT_EQ(Write(first, 0, "1"), absl::OkStatus());
  EXPECT_EQ(Write(second, 0, "2"), absl::OkStatus());
  EXPECT_EQ(Finish(first, 1).value(), 1u);
  ExpectStatus(Finish(second, 1).status(), absl::StatusCode::kAlreadyExists, "'file'");
  EXPECT_EQ(Local("file"), "1");
}

TEST_F(FileServiceTest, DirectoriesAndLinksAreNotReplaced) {
  fs::create_directory(top_ / "dir");
  Put("file", "x");
  fs::create_symlink("file", top_ / "link");
  ExpectStatus(Create("dir", true).status(), absl::StatusCode::kFailedPrecondition, "'dir'");
  ExpectStatus(Create("link", true).status(), absl::StatusCode::kFailedPrecondition, "'link'");
}

TEST_F(FileServiceTest, WritesHaveBounds) {
  const uint64_t upload = Create("file").value();
  ExpectStatus(Write(upload, 0, std::string(RANGE_BYTES_MAX + 1, 'x')),
               absl::StatusCode::kInvalidArgument, "at most 1048576");
  ExpectStatus(Write(upload, ~uint64_t{0}, "x"), absl::StatusCode::kInvalidArgument,
               "beyond the end of any file");
  ExpectStatus(Create("set", false, 04755).status(), absl::StatusCode::kInvalidArgument, "04755");
}

TEST_F(FileServiceTest, AbortedUploadIsGone) {
  const uint64_t upload = Create("file").value();
  EXPECT_EQ(Abort(upload), absl::OkStatus());
  EXPECT_EQ(Abort(upload), absl::OkStatus());
  ExpectStatus(Write(upload, 0, "x"), absl::StatusCode::kNotFound, absl::StrCat(upload));
  ExpectStatus(Finish(upload, 0).status(), absl::StatusCode::kNotFound, absl::StrCat(upload));
}

TEST_F(FileServiceTest, UploadsHaveABound) {
  std::vector<uint64_t> uploads;
  absl::StatusOr<uint64_t> upload = Create("0");
  while (upload.ok() && uploads.size() < 10'000) {
    uploads.push_back(*upload);
    upload = Create(absl::StrCat(uploads.size()));
  }
  ExpectStatus(upload.status(), absl::StatusCode::kResourceExhausted, "uploads are open");
  EXPECT_EQ(Abort(uploads[0]), absl::OkStatus());
  EXPECT_TRUE(Create("one more").ok());
}

TEST_F(FileServiceTest, UploadsDirectoryIsNobodyElses) {
  for (const std::string path : {".mi7-uploads", ".mi7-uploads/x"}) {
    for (const absl::Status& status :
         {Stat(path).status(), List(path).status(), Read(path).status(), MakeDirectory(path),
          Remove(path), Create(path).status(), Create(path, true).status()}) {
      ExpectStatus(status, absl::StatusCode::kPermissionDenied, "this server's own");
    }
  }
}

TEST_F(FileServiceTest, NothingIsLeftOfUnfinishedUploads) {
  Put("file", "x");
  EXPECT_EQ(Write(Create("new").value(), 0, "half"), absl::OkStatus());
  EXPECT_THAT(LocalNames(), ElementsAre(".mi7-uploads", "file"));
  Stop();
  EXPECT_THAT(LocalNames(), ElementsAre("file"));
}

TEST_F(FileServiceTest, LeftoversOfAKilledServerAreRemoved) {
  Stop();
  fs::create_directory(top_ / ".mi7-uploads");
  Put(".mi7-uploads/0123456789abcdef", "half a file");
  Start({});
  EXPECT_TRUE(fs::is_empty(top_ / ".mi7-uploads"));
}

TEST_F(FileServiceTest, SecondWriterOfOneRootIsRefused) {
  ExpectStatus(FileService::Create(top_, {}).status(), absl::StatusCode::kFailedPrecondition,
               "--read_only");
  EXPECT_TRUE(FileService::Create(top_, {.read_only = true}).ok());
}

TEST_F(FileServiceTest, ReadOnlyServerChangesNothing) {
  Stop();
  Put("file", "x");
  Start({.read_only = true});
  EXPECT_EQ(Read("file").value(), "x");
  for (const absl::Status& status :
       {MakeDirectory("dir"), Remove("file"), Create("new").status(), Create("file", true).status(),
        Write(1, 0, "x"), Finish(1, 0).status(), Abort(1)}) {
    ExpectStatus(status, absl::StatusCode::kPermissionDenied, "--read_only");
  }
  EXPECT_THAT(LocalNames(), ElementsAre("file"));
}

TEST_F(FileServiceTest, RefusesLinksWithoutTheKernelsHelpToo) {
  Stop();
  fs::create_symlink("/etc", top_ / "out");
  Start({.lookup = Root::Lookup::kComponents});
  ExpectStatus(Read("out/passwd").status(), absl::StatusCode::kPermissionDenied, "'out/passwd'");
  const uint64_t upload = Create("file").value();
  EXPECT_EQ(Write(upload, 0, "x"), absl::OkStatus());
  EXPECT_EQ(Finish(upload, 1).value(), 1u);
  EXPECT_EQ(Read("file").value(), "x");
}

}  // namespace
}  // namespace files
