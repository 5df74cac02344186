#include "transport/endpoint.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7::transport {
namespace {

Endpoint Parsed(const std::string& text) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  EXPECT_TRUE(endpoint.ok()) << endpoint.status();
  return endpoint.value_or(Endpoint{});
}

void ExpectError(const std::string& text, const std::string& why) {
  const absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  ASSERT_FALSE(endpoint.ok()) << text;
  EXPECT_EQ(endpoint.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(endpoint.status().message(), "endpoint " + why);
}

TEST(EndpointTest, TcpTakesNamesAndAddresses) {
  EXPECT_EQ(Parsed("tcp:localhost:4711"),
            (Endpoint{Endpoint::Scheme::kTcp, "localhost", 4711, ""}));
  EXPECT_EQ(Parsed("tcp:127.0.0.1:0"), (Endpoint{Endpoint::Scheme::kTcp, "127.0.0.1", 0, ""}));
  EXPECT_EQ(Parsed("tcp:a-b_c.example.org:65535"),
            (Endpoint{Endpoint::Scheme::kTcp, "a-b_c.example.org", 65535, ""}));
  EXPECT_EQ(Parsed("tcp:[::1]:1"), (Endpoint{Endpoint::Scheme::kTcp, "::1", 1, ""}));
  EXPECT_EQ(Parsed("tcp:[fe80::1%eth0]:1"),
            (Endpoint{Endpoint::Scheme::kTcp, "fe80::1%eth0", 1, ""}));
  EXPECT_EQ(Parsed("tcp:*:80"), (Endpoint{Endpoint::Scheme::kTcp, "", 80, ""}));
  EXPECT_EQ(Parsed("tcp::80"), (Endpoint{Endpoint::Scheme::kTcp, "", 80, ""}));
}

TEST(EndpointTest, Mi7AndInproc) {
  EXPECT_EQ(Parsed("mi7://example.org:4711"),
            (Endpoint{Endpoint::Scheme::kMi7, "example.org", 4711, ""}));
  EXPECT_EQ(Parsed("mi7://[::]:0"), (Endpoint{Endpoint::Scheme::kMi7, "::", 0, ""}));
  EXPECT_EQ(Parsed("inproc:My_name.1-x"),
            (Endpoint{Endpoint::Scheme::kInproc, "", 0, "My_name.1-x"}));
  EXPECT_EQ(Parsed("inproc:" + std::string(100, 'n')).name.size(), 100u);
}

TEST(EndpointTest, UnixTakesAnAbsolutePath) {
  EXPECT_EQ(Parsed("unix:/run/a b/é.sock"),
            (Endpoint{Endpoint::Scheme::kUnix, "", 0, "", "/run/a b/é.sock"}));
  EXPECT_EQ(Parsed("unix:/a").path, "/a");
  EXPECT_EQ(Parsed("unix:/" + std::string(106, 'p')).path.size(), 107u);
  EXPECT_EQ(Parsed("unix:/a:1/@b").path, "/a:1/@b");
}

TEST(EndpointTest, ShmTakesANameOrAnAbsolutePath) {
  EXPECT_EQ(Parsed("shm:My_name.1-x"),
            (Endpoint{Endpoint::Scheme::kShm, "", 0, "My_name.1-x", ""}));
  EXPECT_EQ(Parsed("shm:/run/x.sock"),
            (Endpoint{Endpoint::Scheme::kShm, "", 0, "", "/run/x.sock"}));
  EXPECT_EQ(Parsed("shm:" + std::string(100, 'n')).name.size(), 100u);
  EXPECT_EQ(Parsed("shm:/" + std::string(106, 'p')).path.size(), 107u);
}

TEST(EndpointTest, ToStringIsTheInverseOfParse) {
  for (const char* text :
       {"tcp:localhost:4711", "tcp:[::1]:4711", "tcp:*:0", "mi7://host:1", "mi7://[fe80::1%a]:2",
        "mi7://*:3", "inproc:name", "unix:/a/b.sock", "shm:name", "shm:/a/b.sock"}) {
    EXPECT_EQ(Parsed(text).ToString(), text);
    EXPECT_EQ(Parsed(Parsed(text).ToString()), Parsed(text));
  }
  EXPECT_EQ(Parsed("tcp::80").ToString(), "tcp:*:80");
}

TEST(EndpointTest, MissingOrUnknownSchemesNameTheKnownOnes) {
  constexpr char kForms[] =
      "expected tcp:host:port, mi7://host:port, unix:/path, shm:name, shm:/path or inproc:name";
  ExpectError("", std::string("\"\": empty, ") + kForms);
  ExpectError("localhost", std::string("\"localhost\": the scheme is missing, ") + kForms);
  ExpectError(":4711", std::string("\":4711\": the scheme is missing, ") + kForms);
  ExpectError("udp:host:1", std::string("\"udp:host:1\": unknown scheme \"udp\", ") + kForms);
  ExpectError("localhost:4711",
              std::string("\"localhost:4711\": unknown scheme \"localhost\", ") + kForms);
  ExpectError("TCP:host:1", std::string("\"TCP:host:1\": unknown scheme \"TCP\", ") + kForms);
  ExpectError("http://host:1",
              std::string("\"http://host:1\": unknown scheme \"http\", ") + kForms);
  ExpectError("tcp", std::string("\"tcp\": the scheme is missing, ") + kForms);
  ExpectError(" tcp:host:1", std::string("\" tcp:host:1\": unknown scheme \" tcp\", ") + kForms);
}

TEST(EndpointTest, SlashesBelongToMi7Only) {
  ExpectError("tcp://host:1", "\"tcp://host:1\": no // after tcp:, expected tcp:host:port");
  ExpectError("mi7:host:1", "\"mi7:host:1\": // is missing after mi7:, expected mi7://host:port");
  ExpectError("mi7:/host:1", "\"mi7:/host:1\": // is missing after mi7:, expected mi7://host:port");
}

TEST(EndpointTest, PortMustBeThere) {
  ExpectError("tcp:host", "\"tcp:host\": the port is missing, expected host:port");
  ExpectError("tcp:", "\"tcp:\": the port is missing, expected host:port");
  ExpectError("mi7://host", "\"mi7://host\": the port is missing, expected host:port");
  ExpectError("tcp:host:", "\"tcp:host:\": port \"\" is not a number from 0 to 65535");
  ExpectError("tcp:[::1]", "\"tcp:[::1]\": the port is missing after the bracket");
  ExpectError("tcp:[::1]:", "\"tcp:[::1]:\": port \"\" is not a number from 0 to 65535");
}

TEST(EndpointTest, PortIsAPlainNumber) {
  for (const std::string port : {"65536", "99999", "100000", "4294967297", "-1", "+1", " 1", "1 ",
                                 "0x50", "1.5", "http", "080", "1/", "1/path"}) {
    ExpectError("tcp:host:" + port,
                "\"tcp:host:" + port + "\": port \"" + port + "\" is not a number from 0 to 65535");
  }
  ExpectError("mi7://[::1]:70000",
              "\"mi7://[::1]:70000\": port \"70000\" is not a number from 0 to 65535");
}

TEST(EndpointTest, Ipv6StandsInBrackets) {
  for (const std::string text :
       {"tcp:::1:4711", "tcp:fe80::1", "tcp:1:2:3:4:5:6:7:8", "tcp::::80", "mi7://::1:80"}) {
    ExpectError(text, "\"" + text + "\": an IPv6 address stands in brackets, such as [::1]:4711");
  }
}

TEST(EndpointTest, BracketsHoldAnIpv6Address) {
  ExpectError("tcp:[::1:4711",
              "\"tcp:[::1:4711\": the bracket around the IPv6 address is not closed");
  ExpectError("tcp:[]:1", "\"tcp:[]:1\": \"\" is not an IPv6 address");
  ExpectError("tcp:[127.0.0.1]:1", "\"tcp:[127.0.0.1]:1\": \"127.0.0.1\" is not an IPv6 address");
  ExpectError("tcp:[host]:1", "\"tcp:[host]:1\": \"host\" is not an IPv6 address");
  ExpectError("tcp:[::1%]:1", "\"tcp:[::1%]:1\": \"::1%\" is not an IPv6 address");
  ExpectError("tcp:[::1%a b]:1", "\"tcp:[::1%a b]:1\": \"::1%a b\" is not an IPv6 address");
  ExpectError("tcp:[::1]4711", "\"tcp:[::1]4711\": \"4711\" after the bracket is not :port");
}

TEST(EndpointTest, HostsHaveNoOddCharacters) {
  ExpectError(
      "tcp:ho st:1",
      "\"tcp:ho st:1\": host \"ho st\" has \" \", a host has only letters, digits and . _ -");
  ExpectError("tcp:user@host:1",
              "\"tcp:user@host:1\": host \"user@host\" has \"@\", a host has "
              "only letters, digits and . _ -");
  ExpectError("mi7://a/b:1",
              "\"mi7://a/b:1\": host \"a/b\" has \"/\", a host has only letters, digits and . _ -");
  ExpectError("tcp:**:1",
              "\"tcp:**:1\": host \"**\" has \"*\", a host has only letters, digits and . _ -");
  ExpectError(std::string("tcp:a\0x:1", 9),
              "\"tcp:a\\x00x:1\": host \"a\\x00x\" has \"\\x00\", a host has only letters, "
              "digits and . _ -");
}

TEST(EndpointTest, LongTextsAreCutInErrors) {
  const std::string host(300, 'h');
  ExpectError("tcp:" + host + ":1", "\"tcp:" + std::string(76, 'h') +
                                        "...\": the host has 300 characters, more than 253");
}

TEST(EndpointTest, InprocNamesHaveALengthAndAnAlphabet) {
  ExpectError("inproc:", "\"inproc:\": the name has 0 characters, expected 1 to 100");
  ExpectError(
      "inproc:" + std::string(101, 'n'),
      "\"inproc:" + std::string(73, 'n') + "...\": the name has 101 characters, expected 1 to 100");
  ExpectError("inproc:a:b",
              "\"inproc:a:b\": name \"a:b\" has \":\", a name has only letters, "
              "digits and . _ -");
  ExpectError("inproc://a",
              "\"inproc://a\": name \"//a\" has \"/\", a name has only letters, "
              "digits and . _ -");
}

TEST(EndpointTest, UnixPathsAreAbsolute) {
  ExpectError("unix:", "\"unix:\": the path is missing, expected unix:/path");
  ExpectError("unix:a.sock", "\"unix:a.sock\": path \"a.sock\" is relative, expected unix:/path");
  ExpectError("unix:./a", "\"unix:./a\": path \"./a\" is relative, expected unix:/path");
  ExpectError("unix:///a", "\"unix:///a\": no // after unix:, expected unix:/path");
  ExpectError("unix://host/a", "\"unix://host/a\": no // after unix:, expected unix:/path");
  ExpectError("unix:@a",
              "\"unix:@a\": abstract sockets are not supported, because no permissions guard "
              "them, expected unix:/path");
  ExpectError(std::string("unix:\0z", 7),
              "\"unix:\\x00z\": path \"\\x00z\" is relative, expected unix:/path");
}

TEST(EndpointTest, PathsNameASocketInADirectory) {
  for (const std::string scheme : {"unix:", "shm:"}) {
    for (const std::string path : {"/", "/a/", "/a/.", "/a/..", "/..", "/."}) {
      ExpectError(scheme + path,
                  "\"" + scheme + path +
                      "\": the path names a directory, expected that of a socket in one");
    }
    ExpectError(scheme + "/" + std::string(107, 'p'),
                "\"" + scheme + "/" + std::string(79 - scheme.size(), 'p') +
                    "...\": the path has 108 bytes, more than 107, the most that a Unix socket's "
                    "address holds");
    ExpectError(scheme + "/a\nb",
                "\"" + scheme + "/a\\nb\": the path has the control character \"\\n\"");
    ExpectError(scheme + std::string("/a\0", 3),
                "\"" + scheme + "/a\\x00\": the path has the control character \"\\x00\"");
    ExpectError(scheme + "/\x7f",
                "\"" + scheme + "/\\x7f\": the path has the control character \"\\x7f\"");
  }
}

TEST(EndpointTest, ShmNamesHaveALengthAndAnAlphabet) {
  ExpectError("shm:", "\"shm:\": the name has 0 characters, expected 1 to 100");
  ExpectError(
      "shm:" + std::string(101, 'n'),
      "\"shm:" + std::string(76, 'n') + "...\": the name has 101 characters, expected 1 to 100");
  ExpectError("shm:a/b",
              "\"shm:a/b\": name \"a/b\" has \"/\", a name has only letters, digits and "
              ". _ -");
  ExpectError("shm:./a",
              "\"shm:./a\": name \"./a\" has \"/\", a name has only letters, digits and "
              ". _ -");
  ExpectError("shm:@a",
              "\"shm:@a\": name \"@a\" has \"@\", a name has only letters, digits and . _ -");
  ExpectError("shm://a", "\"shm://a\": no // after shm:, expected shm:name or shm:/path");
}

TEST(EndpointTest, ToConnectTakesAHostAndAPort) {
  EXPECT_TRUE(Parsed("tcp:host:1").CheckConnectable().ok());
  for (const char* text : {"inproc:a", "unix:/a", "shm:a", "shm:/a"}) {
    EXPECT_TRUE(Parsed(text).CheckConnectable().ok()) << text;
  }
  absl::Status status = Parsed("tcp:*:1").CheckConnectable();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(),
            "endpoint \"tcp:*:1\": the host is missing; only a server may leave it out");
  status = Parsed("mi7://host:0").CheckConnectable();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(),
            "endpoint \"mi7://host:0\": port 0 cannot be connected to; it lets a server pick a "
            "free port");
}

}  // namespace
}  // namespace mi7::transport
