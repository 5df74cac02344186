#pragma once

// What is wrong with a schema, and how a person learns of it.

#include <cstdint>
#include <string>
#include <vector>

#include "codegen/schema.h"

namespace mi7::codegen {

// One thing that is wrong.
struct Problem {
  std::string file;     // "calc/calculator.capnp"
  int line = 0;         // 0 where it is not known
  std::string subject;  // "method Calculator.add"
  std::string what;     // "parameter 'observer' is an interface (Observer)"
  std::string remedy;   // what to do about it, a sentence without its full stop

  // "calc/calculator.capnp:12: error: method Calculator.add: ...; <remedy>."
  std::string ToString() const;
};

}  // namespace mi7::codegen
