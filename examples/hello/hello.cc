#include <iostream>

#include "absl/strings/str_cat.h"
#include "examples/hello/hello.mi7.h"
#include "rpc/server.h"

class Greeter : public hello::GreeterService {
  mi7::Reply Greet(mi7::ServerContext&, hello::Greeter::GreetParams::Reader params,
                   hello::Greeter::GreetResults::Builder results) override {
    if (params.getName().size() == 0) return absl::InvalidArgumentError("name is empty");
    results.setGreeting(absl::StrCat("Hello, ", params.getName().cStr(), "!"));
    return absl::OkStatus();
  }
};

int main() {
  Greeter greeter;
  auto server = mi7::ServerBuilder().AddService(&greeter).Listen("mi7://localhost:0").Start();
  if (!server.ok()) return std::cerr << server.status() << "\n", 1;

  auto channel = mi7::Channel::Create((*server)->endpoints()[0]);
  if (!channel.ok()) return std::cerr << channel.status() << "\n", 1;
  hello::GreeterStub stub(*channel);
  auto request = stub.Greet({.deadline = mi7::Deadline::After(absl::Seconds(1))});
  request->setName("world");
  auto response = request.Send().Wait();
  if (!response.ok()) return std::cerr << response.status() << "\n", 1;
  std::cout << response->getGreeting().cStr() << "\n";
}
