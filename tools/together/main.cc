// main() of a program that several tests are: with --source=FILE, only those of one source run.

#include <cstdio>
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

constexpr std::string_view kSource = "--source=";

// What GoogleTest is told to run: all but the tests of other sources. "" if something is wrong.
std::string FilterFor(std::string_view source) {
  const testing::UnitTest& program = *testing::UnitTest::GetInstance();
  std::string others;
  bool any = false;
  for (int i = 0; i < program.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *program.GetTestSuite(i);
    for (int j = 0; j < suite.total_test_count(); ++j) {
      const testing::TestInfo& test = *suite.GetTestInfo(j);
      const std::string_view file = test.file();
      if (file == source) {
        any = true;
        continue;
      }
      if (!file.ends_with("_test.cc")) {
        std::fprintf(stderr, "%s.%s is of a library: which test it belongs to is unknown\n",
                     suite.name(), test.name());
        return "";
      }
      if (!others.empty()) others += ':';
      others.append(suite.name()).append(".").append(test.name());
    }
  }
  if (any) return "*-" + others;
  std::fprintf(stderr, "There is no test in %s\n", std::string(source).c_str());
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(kSource)) continue;
    const std::string filter = FilterFor(argument.substr(kSource.size()));
    if (filter.empty()) return 1;
    // Who names tests gets those.
    if (GTEST_FLAG_GET(filter) == "*") GTEST_FLAG_SET(filter, filter);
  }
  return RUN_ALL_TESTS();
}
