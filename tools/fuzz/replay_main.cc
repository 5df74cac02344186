// main() of a fuzz target that is built without libFuzzer: runs it over the files of its corpus.
//
//   target FOLDER|FILE...
//
// Each input is followed by its prefixes and by itself with one byte changed, from a fixed list of
// changes, so that a run is the same every time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

// Runs of one input, and of all its neighbours together, are bounded: a corpus file may be large.
constexpr size_t kNeighboursMax = 2048;

// From memory of exactly that size, so that a sanitizer sees a read past its end.
void Run(const Input& input) {
  std::vector<uint8_t> copy(input.begin(), input.end());
  copy.shrink_to_fit();
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
}

void RunWithNeighbours(const Input& input) {
  Run(input);
  const size_t step = input.size() / kNeighboursMax + 1;
  for (size_t size = 0; size < input.size(); size += step) {
    Run(Input(input.begin(), input.begin() + static_cast<ptrdiff_t>(size)));
  }
  Input changed = input;
  for (size_t i = 0; i < input.size(); i += step) {
    for (uint8_t bits : {0x01, 0x80, 0xff}) {
      changed[i] = input[i] ^ bits;
      Run(changed);
    }
    changed[i] = input[i];
  }
}

Input Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Input(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    if (!std::filesystem::is_directory(argv[i])) {
      files.emplace_back(argv[i]);
      continue;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(
             argv[i], std::filesystem::directory_options::follow_directory_symlink)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  for (const std::filesystem::path& path : files) {
    std::printf("%s\n", path.c_str());
    std::fflush(stdout);
    RunWithNeighbours(Read(path));
  }
  std::printf("%zu inputs, each with its neighbours\n", files.size());
  return files.empty() ? 1 : 0;
}
