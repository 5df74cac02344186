#pragma once

// The compiler plugins as programs: from `capnp compile` on standard input to files.

namespace mi7::codegen {

// Which files a plugin writes for x.capnp.
enum class Output {
  kCode,  // x.mi7.h and x.mi7.cc
  kMock,  // x.mi7.mock.h
};

// The whole of a plugin's main(). Reads an unpacked CodeGeneratorRequest from standard input and
// writes the files of those schemas that the request names into the current folder, under the same
// relative paths as capnpc-c++. Writes all of them or, after a message on standard error, none.
// Returns the exit status: 0, or 1 where anything failed. Throws nothing.
int RunPlugin(int argc, char** argv, Output output) noexcept;

}  // namespace mi7::codegen
