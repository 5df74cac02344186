#pragma once

#include <CLI/CLI.hpp>

namespace mi7::tools {

// Adds `pipe` with its verbs to `app`. A verb that runs sets `status`: 0 when all was well, 1 when
// something failed, which it has told on stderr. `status` outlives `app`.
void AddPipeCommands(CLI::App& app, int& status);

}  // namespace mi7::tools
