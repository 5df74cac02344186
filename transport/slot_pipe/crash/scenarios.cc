#include "transport/slot_pipe/crash/scenarios.h"

#include <memory>
#include <utility>

#include "base/check.h"

namespace mi7::slot_pipe_internal {
namespace {

std::unique_ptr<SlotPipe> Connect() {
  auto pipe = SlotPipe::Connect(kPipe);
  MI7_CHECK(pipe.ok(), "the pipe is there");
  return *std::move(pipe);
}

void Fill(SlotPipe& pipe, Ledger& ledger, uint32_t messages) {
  for (uint32_t message = 0; message < messages; ++message) SendMessage(pipe, ledger, message);
}

}  // namespace

const std::vector<Scenario>& Scenarios() {
  static const auto* const all = new std::vector<Scenario>{
      {"produce", [](SlotPipe& pipe, Ledger& ledger) { Fill(pipe, ledger, 1); },
       [](Ledger& ledger) {
         auto pipe = Connect();
         SendMessage(*pipe, ledger, 1);
         MI7_CHECK(pipe->TryHold()->GiveBack().ok(), "a held slot can be given back");
         SendMessage(*pipe, ledger, 2);
         pipe->TryHold()->Detach();  // left to the end
       }},
      {"consume", [](SlotPipe& pipe, Ledger& ledger) { Fill(pipe, ledger, 4); },
       [](Ledger& ledger) {
         auto pipe = Connect();
         ReleaseMessage(FetchMessage(*pipe, ledger), ledger);
         MI7_CHECK(FetchMessage(*pipe, ledger).Return().ok(), "a message can be returned");
         ReleaseMessage(FetchMessage(*pipe, ledger), ledger);
         FetchMessage(*pipe, ledger).Detach();  // left to the end
       }},
      {"both", [](SlotPipe&, Ledger&) {},
       [](Ledger& ledger) {
         auto pipe = Connect();
         // Goes round: each message in the slot of the one before.
         for (uint32_t message = 0; message < 6; ++message) {
           SendMessage(*pipe, ledger, message);
           ReleaseMessage(FetchMessage(*pipe, ledger), ledger);
         }
       }},
      {"dead letters",
       [](SlotPipe& pipe, Ledger& ledger) {
         for (uint32_t message = 0; message < 3; ++message) SendSpoilt(pipe, ledger, message);
       },
       [](Ledger& ledger) {
         auto pipe = Connect();
         ReturnDeadLetter(FetchDeadLetter(*pipe, ledger), ledger);
         RedriveDeadLetter(FetchDeadLetter(*pipe, ledger), ledger);
         ReleaseMessage(FetchDeadLetter(*pipe, ledger), ledger);
         FetchDeadLetter(*pipe, ledger).Detach();  // left to the end
       }},
      {"all dead letters",
       [](SlotPipe& pipe, Ledger& ledger) {
         for (uint32_t message = 0; message < 3; ++message) SendSpoilt(pipe, ledger, message);
         // Two of three.
         std::vector<ReadSlot> letters;
         for (int i = 0; i < 2; ++i) letters.push_back(FetchDeadLetter(pipe, ledger));
         for (ReadSlot& letter : letters) MendDeadLetter(std::move(letter), ledger);
       },
       [](Ledger& ledger) {
         auto pipe = Connect();
         MI7_CHECK(LookAtDeadLetters(*pipe, ledger) == 3, "each is seen once");
         RedriveDeadLetters(*pipe, ledger, 2);
       }},
      // Connecting recovers what others left: see recovery in the test.
      {"recover", [](SlotPipe&, Ledger&) {}, [](Ledger&) { Connect(); }},
  };
  return *all;
}

}  // namespace mi7::slot_pipe_internal
