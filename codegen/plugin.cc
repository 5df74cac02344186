#include "codegen/plugin.h"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include "codegen/build.h"
#include "codegen/check.h"
#include "codegen/emit.h"

namespace mi7::codegen {
namespace {

constexpr const char* kVersion = "0.1.0";

using Files = std::map<std::string, std::string>;  // path to content

void PrintUsage(const std::string& program, Output output, std::FILE* to) {
  const std::string language = output == Output::kCode ? "mi7" : "mi7-mock";
  const std::string files =
      output == Output::kCode ? "x.mi7.h and x.mi7.cc" : "x.mi7.mock.h (for gMock)";
  std::fprintf(
      to,
      "%s is a plugin of the Cap'n Proto compiler, which runs it:\n\n"
      "    capnp compile -oc++ -o%s x.capnp            (with it on the PATH)\n"
      "    capnp compile -oc++ -o/path/to/%s:OUT x.capnp\n\n"
      "It writes %s, beside the x.capnp.h of capnpc-c++.\n\n"
      "    --help     prints this\n"
      "    --version  prints the version\n\n"
      "MI7_SCHEMA_PATH: more folders that schemas are found in, separated by ':'. Their texts\n"
      "are read to name lines in error messages and to find names that collide.\n",
      program.c_str(), language.c_str(), program.c_str(), files.c_str());
}

// Words of a message. (capnp::word itself cannot be copied, as a vector may have to.)
std::vector<uint64_t> ReadInput() {
  std::vector<uint64_t> words(1024);
  size_t size = 0;
  for (;;) {
    if (size == words.size() * sizeof(uint64_t)) words.resize(words.size() * 2);
    const ssize_t count = read(STDIN_FILENO, reinterpret_cast<char*>(words.data()) + size,
                               words.size() * sizeof(uint64_t) - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw std::runtime_error(std::string("standard input: ") + strerror(errno));
    if (count == 0) break;
    size += static_cast<size_t>(count);
  }
  if (size == 0) throw std::runtime_error("standard input is empty");
  if (size % sizeof(uint64_t) != 0) {
    throw std::runtime_error("it is cut off: " + std::to_string(size) +
                             " bytes are not whole words");
  }
  words.resize(size / sizeof(uint64_t));
  return words;
}

// Reports what is wrong with the schemas, and returns the files otherwise.
bool Generate(CodeGeneratorRequest::Reader request, Output output, Files& files) {
  const Schema schema(request);
  const SourceFinder sources = SourceFinder::FromEnvironment();
  bool good = true;
  for (auto requested : request.getRequestedFiles()) {
    for (const Problem& problem : CheckFile(schema, requested, sources)) {
      std::fprintf(stderr, "%s\n", problem.ToString().c_str());
      good = false;
    }
  }
  if (!good) return false;

  for (auto requested : request.getRequestedFiles()) {
    const File file = BuildFile(schema, requested);
    const auto add = [&](const std::string& extension, std::string content) {
      const std::string name = OutputName(file.name, extension);
      if (!files.emplace(name, std::move(content)).second) {
        throw std::runtime_error("two of its schemas would both be written to " + name);
      }
    };
    if (output == Output::kCode) {
      add(".mi7.h", EmitHeader(file));
      add(".mi7.cc", EmitSource(file));
    } else {
      add(".mi7.mock.h", EmitMock(file));
    }
  }
  return true;
}

// Writes all files beside their names first, so that an error leaves the old ones as they were.
void Write(const Files& files) {
  namespace fs = std::filesystem;
  std::vector<std::pair<fs::path, fs::path>> written;  // temporary and final names
  try {
    for (const auto& [name, content] : files) {
      const fs::path path(name);
      if (path.has_parent_path()) fs::create_directories(path.parent_path());
      if (fs::is_directory(path)) throw std::runtime_error(name + ": is a folder");
      written.emplace_back(name + ".tmp" + std::to_string(getpid()), path);
      std::ofstream out(written.back().first, std::ios::binary);
      out << content;
      out.close();
      if (!out) throw std::runtime_error(name + ": " + strerror(errno));
    }
    for (const auto& [temporary, path] : written) fs::rename(temporary, path);
  } catch (...) {
    std::error_code ignored;
    for (const auto& [temporary, path] : written) fs::remove(temporary, ignored);
    throw;
  }
}

int Run(const std::string& program, int argc, char** argv, Output output) {
  if (argc > 1) {
    const std::string argument = argv[1];
    if (argument == "--version") {
      std::printf("%s %s\n", program.c_str(), kVersion);
      return 0;
    }
    const bool asked = argument == "--help" || argument == "-h";
    if (!asked) {
      std::fprintf(stderr, "%s: unknown argument '%s'\n\n", program.c_str(), argument.c_str());
    }
    PrintUsage(program, output, asked ? stdout : stderr);
    return asked ? 0 : 1;
  }
  if (isatty(STDIN_FILENO) != 0) {
    PrintUsage(program, output, stderr);
    return 1;
  }

  Files files;
  const char* stage = "the request on standard input cannot be used: ";
  try {
    const std::vector<uint64_t> words = ReadInput();
    capnp::ReaderOptions options;
    // The compiler that wrote the request is trusted as much as the schemas, and every node is read
    // several times. Recursion follows the nesting of types.
    options.traversalLimitInWords = static_cast<uint64_t>(words.size()) * 1024 + (1u << 20);
    options.nestingLimit = 512;
    const auto* const message = reinterpret_cast<const capnp::word*>(words.data());
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(message, words.size()), options);
    if (!Generate(reader.getRoot<CodeGeneratorRequest>(), output, files)) return 1;
    stage = "";
    Write(files);
  } catch (const kj::Exception& e) {
    std::fprintf(stderr, "%s: %s%s\n", program.c_str(), stage, e.getDescription().cStr());
    return 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s%s\n", program.c_str(), stage, e.what());
    return 1;
  }
  return 0;
}

}  // namespace

int RunPlugin(int argc, char** argv, Output output) noexcept {
  return Run(output == Output::kCode ? "capnpc-mi7" : "capnpc-mi7-mock", argc, argv, output);
}

}  // namespace mi7::codegen
