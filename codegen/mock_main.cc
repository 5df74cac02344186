#include "codegen/plugin.h"

int main(int argc, char** argv) {
  return mi7::codegen::RunPlugin(argc, argv, mi7::codegen::Output::kMock);
}
