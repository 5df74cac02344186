#include "transport/slot_pipe/interleaving/weak_memory.h"

#include <algorithm>

#include "base/check.h"

namespace mi7::slot_pipe_internal {
namespace {

bool Acquires(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}
bool Releases(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

template <typename View>
void JoinTo(View& view, const View& other) {
  for (size_t i = 0; i < view.size(); ++i) view[i] = std::max(view[i], other[i]);
}

}  // namespace

void WeakMemory::Restart(size_t actors) {
  used_ = 0;
  views_.assign(actors, View{});
}

size_t WeakMemory::Find(const void* location, uint64_t last) {
  for (size_t i = 0; i < used_; ++i) {
    if (locations_[i].address == location) return i;
  }
  MI7_CHECK(used_ < kLocationsMax, "a scenario has few locations");
  if (used_ == locations_.size()) locations_.emplace_back();
  Location& fresh = locations_[used_];
  fresh.address = location;
  fresh.writes.clear();
  fresh.writes.push_back({last, View{}});
  fresh.consistent = 0;
  return used_++;
}

uint32_t WeakMemory::Readable(size_t actor, const void* location, uint64_t last,
                              std::memory_order order) {
  const size_t index = Find(location, last);
  const Location& of = locations_[index];
  uint8_t first = views_[actor][index];
  if (order == std::memory_order_seq_cst) first = std::max(first, of.consistent);
  return static_cast<uint32_t>(of.writes.size()) - first;
}

uint64_t WeakMemory::Read(size_t actor, const void* location, uint32_t age,
                          std::memory_order order) {
  const size_t index = Find(location, 0);
  Location& of = locations_[index];
  const auto at = static_cast<uint8_t>(of.writes.size() - 1 - age);
  View& view = views_[actor];
  view[index] = std::max(view[index], at);
  if (Acquires(order)) JoinTo(view, of.writes[at].released);
  if (order == std::memory_order_seq_cst) of.consistent = std::max(of.consistent, at);
  return of.writes[at].value;
}

void WeakMemory::Write(size_t actor, const void* location, uint64_t last, uint64_t value,
                       bool reads, std::memory_order order) {
  const size_t index = Find(location, last);
  if (reads) Read(actor, location, 0, order);
  Location& of = locations_[index];
  MI7_CHECK(of.writes.size() < 255, "a location is written few times in a scenario");
  const auto at = static_cast<uint8_t>(of.writes.size());
  View& view = views_[actor];
  view[index] = at;
  View released = reads ? of.writes.back().released : View{};
  if (Releases(order)) JoinTo(released, view);
  of.writes.push_back({value, released});
  if (order == std::memory_order_seq_cst) of.consistent = at;
}

void WeakMemory::Join(size_t actor, size_t of) { JoinTo(views_[actor], views_[of]); }

}  // namespace mi7::slot_pipe_internal
