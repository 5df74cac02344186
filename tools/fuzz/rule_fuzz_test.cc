// The smallest fuzz target: reads every byte that it is given, so that a sanitizer would notice a
// size that is wrong.

#include <cstddef>
#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static bool seen_first_of_corpus = false;
  uint32_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum += data[i];
  seen_first_of_corpus |= size == 5 && sum == 'h' + 'e' + 2 * 'l' + 'o';
  if (sum > 0xffffff && !seen_first_of_corpus) std::abort();
  return 0;
}
