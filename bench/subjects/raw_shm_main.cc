#include "bench/subjects/raw_shm.h"

int main(int argc, char** argv) {
  mi7::bench::RawShm subject(mi7::bench::RawShm::Sleeping::kFutex);
  return mi7::bench::RunSubject(argc, argv, subject);
}
