// Writes the corpus of the fuzz targets from the golden streams:
//   bazel run //tests/fuzz:make_corpus -- "$PWD/tests/fuzz/corpus"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "tests/fuzz/golden_streams.h"
#include "transport/frame.h"
#include "transport/handshake.h"

namespace {

void Write(const std::filesystem::path& path, const std::vector<uint8_t>& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  const std::vector<mi7::fuzz::GoldenStream> streams = mi7::fuzz::GoldenStreams();
  const size_t greeting_bytes = streams[0].bytes.size();
  for (const mi7::fuzz::GoldenStream& stream : streams) {
    // A large one adds nothing that a small one with other numbers does not reach.
    if (stream.bytes.size() > 4096) continue;
    std::vector<uint8_t> whole = {0x11};
    whole.insert(whole.end(), stream.bytes.begin(), stream.bytes.end());
    Write(folder / "stream" / stream.name, whole);
    std::vector<uint8_t> greeted = {0x91};
    greeted.insert(greeted.end(), stream.bytes.begin() + static_cast<ptrdiff_t>(greeting_bytes),
                   stream.bytes.end());
    if (stream.message_count != 0) Write(folder / "stream" / (stream.name + "_greeted"), greeted);

    size_t at = mi7::transport::kOpeningBytes;
    for (size_t index = 0; at < stream.bytes.size(); ++index) {
      mi7::transport::FrameHeader header;
      std::memcpy(static_cast<void*>(&header), stream.bytes.data() + at, sizeof(header));
      const bool greeting = index == 0;
      if ((greeting && stream.name == "hello") || (!greeting && header.size > sizeof(header))) {
        std::vector<uint8_t> message(4);
        message[0] = header.type == mi7::transport::FrameType::kReturn  ? 0
                     : header.type == mi7::transport::FrameType::kCall  ? 1
                     : header.type == mi7::transport::FrameType::kHello ? 2
                                                                        : 3;
        message[1] = static_cast<uint8_t>(header.code);
        message[2] = static_cast<uint8_t>(header.extra_size / 8);
        message.insert(message.end(),
                       stream.bytes.begin() + static_cast<ptrdiff_t>(at + sizeof(header)),
                       stream.bytes.begin() + static_cast<ptrdiff_t>(at + header.size));
        Write(folder / "message" / (stream.name + "_" + std::to_string(index)), message);
      }
      at += header.size;
    }
  }
  return 0;
}
