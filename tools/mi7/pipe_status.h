#pragma once

#include <cstdint>
#include <string>

#include "transport/slot_pipe/slot_pipe.h"

namespace mi7::tools {

// How many take part: who is dead does not.
uint32_t TakingPart(const PipeStatus& status);

// The status of a pipe for a person: several lines.
std::string StatusText(const PipeStatus& status);

// The same for a program: one JSON object in one line.
std::string StatusJson(const PipeStatus& status);

// `text` as a JSON string, quotes included. UTF-8 is passed through; control characters, and bytes
// that are no UTF-8, become \u00XX each.
std::string JsonString(absl::string_view text);

}  // namespace mi7::tools
