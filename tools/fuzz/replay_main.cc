// main() of a fuzz target that is built without libFuzzer: runs it over the files of its corpus.
//
//   target FOLDER|FILE...
//
// Each input is followed by its prefixes and by itself with one byte changed, from a fixed list of
// changes. Then come random changes of them, several at once, until there were
// MI7_REPLAY_EXECUTIONS runs in all (none without it). A run is the same every time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

// Runs of one input, and of all its neighbours together, are bounded: a corpus file may be large.
constexpr size_t kNeighboursMax = 2048;

uint64_t executions = 0;

// From memory of exactly that size, so that a sanitizer sees a read past its end.
void Run(const Input& input) {
  std::vector<uint8_t> copy(input.begin(), input.end());
  copy.shrink_to_fit();
  ++executions;
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

// One change as fuzzers make them: of a bit, of a word to one that is an edge for lengths, of the
// end, or a part of another input in its place.
void Change(Input& input, const Input& other, std::mt19937_64& random) {
  if (input.empty()) return;
  const size_t at = random() % input.size();
  switch (random() % 5) {
    case 0:
      input[at] ^= static_cast<uint8_t>(1u << random() % 8);
      break;
    case 1: {
      const size_t word = at / 4 * 4;
      if (word + 4 > input.size()) break;
      const uint32_t edge = (uint32_t{1} << random() % 32) - random() % 2;
      std::memcpy(&input[word], &edge, sizeof(edge));
      break;
    }
    case 2:
      input.resize(at);
      break;
    case 3: {
      const size_t from = random() % (other.size() + 1);
      const size_t count = std::min(other.size() - from, input.size() - at);
      std::copy_n(other.begin() + static_cast<ptrdiff_t>(from), count,
                  input.begin() + static_cast<ptrdiff_t>(at));
      break;
    }
    default:
      input.insert(input.end(), other.begin(), other.end());
      break;
  }
}

void RunChanged(const std::vector<Input>& inputs, uint64_t wanted) {
  std::mt19937_64 random(1);
  while (executions < wanted) {
    Input input = inputs[random() % inputs.size()];
    for (uint64_t changes = 1 + random() % 6; changes > 0; --changes) {
      Change(input, inputs[random() % inputs.size()], random);
    }
    Run(input);
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
  std::vector<Input> inputs;
  for (const std::filesystem::path& path : files) {
    std::printf("%s\n", path.c_str());
    std::fflush(stdout);
    inputs.push_back(Read(path));
    RunWithNeighbours(inputs.back());
  }
  if (files.empty()) return 1;
  if (const char* const wanted = std::getenv("MI7_REPLAY_EXECUTIONS")) {
    RunChanged(inputs, std::strtoull(wanted, nullptr, 10));
  }
  std::printf("RELIABILITY: %llu executions of %zu inputs and their neighbours\n",
              static_cast<unsigned long long>(executions), files.size());
  return 0;
}
