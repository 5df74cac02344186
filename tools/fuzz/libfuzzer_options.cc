// Options of libFuzzer that follow from running as a Bazel test.

#include <cstdlib>
#include <string>
#include <vector>

namespace {

std::string Environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

}  // namespace

// Called by libFuzzer before it reads its arguments. Options given on the command line come after
// these and win.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  static const std::string temporary = Environment("TEST_TMPDIR", "/tmp");
  // libFuzzer writes what it finds into the first folder it is given; the corpus is read-only.
  static std::vector<std::string> added = {
      "-max_total_time=" + Environment("MI7_FUZZ_SECONDS", "10"),
      "-timeout=20",
      "-rss_limit_mb=2048",
      "-print_final_stats=1",
      "-artifact_prefix=" + Environment("TEST_UNDECLARED_OUTPUTS_DIR", temporary.c_str()) + "/",
      temporary,
  };
  static std::vector<char*> arguments;
  arguments.push_back((*argv)[0]);
  for (std::string& argument : added) arguments.push_back(argument.data());
  for (int i = 1; i < *argc; ++i) arguments.push_back((*argv)[i]);
  *argc = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  *argv = arguments.data();
  return 0;
}
