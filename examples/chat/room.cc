#include "examples/chat/room.h"

#include <algorithm>
#include <utility>

#include <kj/exception.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace chat {
namespace {

absl::string_view View(capnp::Text::Reader text) { return {text.cStr(), text.size()}; }

absl::Status RoomCloses() { return absl::UnavailableError("join: the room closes"); }

absl::Status CheckName(absl::string_view name) {
  const bool sound = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
  if (sound && !name.empty() && name.size() <= NAME_BYTES_MAX) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("join: a name has 1 to ", NAME_BYTES_MAX, " letters, digits, - and _; this has ",
                   name.size(), " characters", sound ? "" : ", and others among them"));
}

absl::Status CheckText(absl::string_view text) {
  if (text.size() <= TEXT_BYTES_MAX) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("join: a text of ", text.size(), " bytes; at most ", TEXT_BYTES_MAX));
}

void Fill(const News& news, FromRoom::Builder message) {
  switch (news.kind) {
    case News::Kind::kJoined:
      message.setJoined(news.name);
      return;
    case News::Kind::kLeft:
      message.setLeft(news.name);
      return;
    case News::Kind::kSaid:
      message.initSaid().setName(news.name);
      message.getSaid().setText(news.text);
      return;
  }
}

}  // namespace

void RoomImpl::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (auto& [name, member] : members_) {
    member->why = RoomCloses();
    member->news.Close();
  }
  members_.clear();
}

absl::StatusOr<std::shared_ptr<RoomImpl::Member>> RoomImpl::Enter(
    absl::string_view name, std::vector<std::string>& others) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return RoomCloses();
  if (members_.find(name) != members_.end()) {
    return absl::AlreadyExistsError(absl::StrCat("join: there is a ", name, " in the room"));
  }
  if (members_.size() >= kMembersMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("join: the room is full, with ", members_.size(), " in it"));
  }
  for (const auto& [other, member] : members_) others.push_back(other);
  auto [news, unread] = mi7::channels::Bounded<News>(kUnreadMax);
  auto member = std::make_shared<Member>(Member{
      .name = std::string(name), .news = std::move(news), .unread = std::move(unread), .why = {}});
  members_.emplace(member->name, member);
  TellOthers(*member, {.kind = News::Kind::kJoined, .name = member->name});
  return member;
}

void RoomImpl::Leave(Member& member, absl::Status why) {
  absl::MutexLock lock(&mutex_);
  const auto found = members_.find(member.name);
  if (found == members_.end() || found->second.get() != &member) return;  // the room has closed
  const std::shared_ptr<Member> keep = std::move(found->second);
  members_.erase(found);
  member.why = std::move(why);
  member.news.Close();
  TellOthers(member, {.kind = News::Kind::kLeft, .name = member.name});
}

void RoomImpl::TellOthers(const Member& from, const News& news) {
  for (auto& [name, member] : members_) {
    if (member.get() == &from) continue;
    News copy = news;
    copy.missed_before = member->missed;
    if (member->news.TrySend(std::move(copy)).ok()) {
      member->missed = 0;
    } else {
      ++member->missed;
    }
  }
}

mi7::Reply RoomImpl::Join(mi7::ServerContext&, mi7::StreamReader<ToRoom> reader,
                          mi7::StreamWriter<FromRoom> writer) {
  auto first = co_await reader.Read();
  if (!first.ok()) co_return first.status();
  if (!*first || !(*first)->isName()) {
    co_return absl::InvalidArgumentError("join: the first message is a name");
  }
  const absl::string_view name = View((*first)->getName());
  if (absl::Status sound = CheckName(name); !sound.ok()) co_return sound;
  std::vector<std::string> others;
  absl::StatusOr<std::shared_ptr<Member>> member = Enter(name, others);
  if (!member.ok()) co_return member.status();
  Listen(*member, std::move(reader));

  // From here on the member goes when its queue is closed. Whatever fails in between is seen by
  // Listen as well, whose reads end with the stream.
  auto welcome = writer.NewMessage();
  auto names = welcome->initWelcome(static_cast<unsigned>(others.size()));
  for (unsigned i = 0; i < others.size(); ++i) names.set(i, others[i]);
  absl::Status sent = co_await writer.Write(std::move(welcome));
  while (sent.ok()) {
    absl::StatusOr<News> news = co_await (*member)->unread.ReceiveOn(loop_);
    if (!news.ok()) co_return (*member)->why;
    if (news->missed_before != 0) {
      auto missed = writer.NewMessage();
      missed->setMissed(news->missed_before);
      sent = co_await writer.Write(std::move(missed));
      if (!sent.ok()) break;
    }
    auto message = writer.NewMessage();
    Fill(*news, *message);
    // Goes on when the member has read enough; until then its queue fills.
    sent = co_await writer.Write(std::move(message));
  }
  co_return sent;
}

mi7::DetachedTask RoomImpl::Listen(std::shared_ptr<Member> member,
                                   mi7::StreamReader<ToRoom> reader) {
  absl::Status why;
  // In a handler mi7 catches what reading a malformed message throws; here that is on us.
  try {
    while (why.ok()) {
      auto message = co_await reader.Read();
      if (!message.ok()) {
        why = message.status();
      } else if (!*message) {
        break;  // it has said all it had to say
      } else if (!(*message)->isText()) {
        why = absl::InvalidArgumentError("join: every message but the first is a text");
      } else {
        const absl::string_view text = View((*message)->getText());
        why = CheckText(text);
        if (!why.ok()) break;
        absl::MutexLock lock(&mutex_);
        TellOthers(*member,
                   {.kind = News::Kind::kSaid, .name = member->name, .text = std::string(text)});
      }
    }
  } catch (const kj::Exception& wrong) {
    why = absl::InvalidArgumentError(
        absl::StrCat("join: malformed message: ", wrong.getDescription().cStr()));
  }
  Leave(*member, std::move(why));
}

mi7::Reply RoomImpl::Who(mi7::ServerContext&, Room::WhoParams::Reader,
                         Room::WhoResults::Builder results) {
  absl::MutexLock lock(&mutex_);
  auto names = results.initNames(static_cast<unsigned>(members_.size()));
  unsigned i = 0;
  for (const auto& [name, member] : members_) names.set(i++, name);
  return absl::OkStatus();
}

}  // namespace chat
