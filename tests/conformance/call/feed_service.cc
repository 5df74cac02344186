#include "tests/conformance/call/feed_service.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mi7::conformance {

void FillItem(Item::Builder item, uint64_t number, size_t bytes) {
  item.setNumber(number);
  if (bytes == 0) return;
  auto data = item.initData(static_cast<unsigned>(bytes));
  std::memset(data.begin(), static_cast<int>('a' + number % 23), data.size());
}

StreamDraft<Item> NewItem(StreamWriter<Item>& writer, uint64_t number, size_t bytes) {
  StreamDraft<Item> draft = writer.NewMessage();
  FillItem(*draft, number, bytes);
  return draft;
}

bool IsItem(Item::Reader item, uint64_t number, size_t bytes) {
  const auto data = item.getData();
  return item.getNumber() == number && data.size() == bytes &&
         std::all_of(data.begin(), data.end(),
                     [&](kj::byte byte) { return byte == 'a' + number % 23; });
}

Reply SendItems(ServerContext&, Feed::WatchParams::Reader params, StreamWriter<Item> writer) {
  for (uint64_t number = 0; number < params.getCount(); ++number) {
    absl::Status sent = co_await writer.Write(NewItem(writer, number, params.getBytes()));
    if (!sent.ok()) co_return sent;
  }
  co_return absl::OkStatus();
}

uint64_t RemainingMs(const ServerContext& context) {
  const Deadline deadline = context.deadline();
  if (deadline.infinite()) return 0;
  return static_cast<uint64_t>(absl::ToInt64Milliseconds(deadline.remaining()));
}

Reply SendRemaining(ServerContext& context, StreamWriter<Item> writer) {
  co_return co_await writer.Write(NewItem(writer, RemainingMs(context)));
}

Reply CountItems(ServerContext&, StreamReader<Item> reader, Feed::UploadResults::Builder results) {
  uint64_t count = 0;
  uint64_t bytes = 0;
  for (;;) {
    ItemRead item = co_await reader.Read();
    if (!item.ok()) co_return item.status();
    if (!*item) break;
    ++count;
    bytes += (*item)->getData().size();
  }
  results.setCount(count);
  results.setBytes(bytes);
  co_return absl::OkStatus();
}

Reply EchoItems(ServerContext&, StreamReader<Item> reader, StreamWriter<Item> writer) {
  for (;;) {
    ItemRead item = co_await reader.Read();
    if (!item.ok()) co_return item.status();
    if (!*item) co_return absl::OkStatus();
    StreamDraft<Item> draft = writer.NewMessage();
    draft->setNumber((*item)->getNumber());
    draft->setData((*item)->getData());
    absl::Status sent = co_await writer.Write(std::move(draft));
    if (!sent.ok()) co_return sent;
  }
}

}  // namespace mi7::conformance
