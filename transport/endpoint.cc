#include "transport/endpoint.h"

#include <arpa/inet.h>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace mi7::transport {
namespace {

constexpr size_t kNameMax = 100;
constexpr size_t kHostMax = 253;  // RFC 1035, as text
constexpr size_t kPathMax = 107;  // sockaddr_un::sun_path without its end
constexpr absl::string_view kForms =
    "tcp:host:port, mi7://host:port, unix:/path, shm:name, shm:/path or inproc:name";

// Quoted for an error message; endpoints come from command lines and may be long or binary.
std::string Quoted(absl::string_view text) {
  const bool cut = text.size() > 80;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 80)), cut ? "..." : "", "\"");
}

absl::Status Invalid(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("endpoint ", Quoted(text), ": ", why));
}

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '-';
}

bool IsIpv6(absl::string_view address) {
  in6_addr ignored;
  return ::inet_pton(AF_INET6, std::string(address).c_str(), &ignored) == 1;
}

absl::Status ParsePort(absl::string_view text, absl::string_view port, uint16_t& result) {
  uint32_t value = 0;
  bool decimal = !port.empty() && port.size() <= 5 && (port[0] != '0' || port.size() == 1);
  for (const char c : port) decimal = decimal && absl::ascii_isdigit(static_cast<unsigned char>(c));
  if (!decimal || !absl::SimpleAtoi(port, &value) || value > 65535) {
    return Invalid(text, absl::StrCat("port ", Quoted(port), " is not a number from 0 to 65535"));
  }
  result = static_cast<uint16_t>(value);
  return absl::OkStatus();
}

absl::Status ParseBracketed(absl::string_view text, absl::string_view address,
                            absl::string_view& port, std::string& host) {
  const size_t close = address.find(']');
  if (close == absl::string_view::npos) {
    return Invalid(text, "the bracket around the IPv6 address is not closed");
  }
  port = address.substr(close + 1);
  if (!absl::ConsumePrefix(&port, ":")) {
    return Invalid(text, port.empty()
                             ? "the port is missing after the bracket"
                             : absl::StrCat(Quoted(port), " after the bracket is not :port"));
  }
  address = address.substr(1, close - 1);
  const size_t percent = address.find('%');
  absl::string_view zone = percent == absl::string_view::npos ? "" : address.substr(percent);
  bool zone_valid = zone.empty() || zone.size() > 1;
  if (!zone.empty()) zone.remove_prefix(1);
  for (const char c : zone) zone_valid = zone_valid && IsNameCharacter(c);
  if (!zone_valid || !IsIpv6(address.substr(0, percent))) {
    return Invalid(text, absl::StrCat(Quoted(address), " is not an IPv6 address"));
  }
  host = std::string(address);
  return absl::OkStatus();
}

absl::Status ParseHostPort(absl::string_view text, absl::string_view address, std::string& host,
                           uint16_t& port) {
  absl::string_view port_text;
  if (absl::StartsWith(address, "[")) {
    absl::Status parsed = ParseBracketed(text, address, port_text, host);
    if (!parsed.ok()) return parsed;
    return ParsePort(text, port_text, port);
  }
  const size_t colon = address.rfind(':');
  if (IsIpv6(address) || (colon != absl::string_view::npos && address.find(':') != colon)) {
    return Invalid(text, "an IPv6 address stands in brackets, such as [::1]:4711");
  }
  if (colon == absl::string_view::npos) {
    return Invalid(text, "the port is missing, expected host:port");
  }
  const absl::string_view host_text = address.substr(0, colon);
  port_text = address.substr(colon + 1);
  if (host_text != "*") {
    if (host_text.size() > kHostMax) {
      return Invalid(text, absl::StrCat("the host has ", host_text.size(),
                                        " characters, more than ", kHostMax));
    }
    for (size_t i = 0; i < host_text.size(); ++i) {
      if (!IsNameCharacter(host_text[i])) {
        return Invalid(
            text, absl::StrCat("host ", Quoted(host_text), " has ", Quoted(host_text.substr(i, 1)),
                               ", a host has only letters, digits and . _ -"));
      }
    }
    host = std::string(host_text);
  }
  return ParsePort(text, port_text, port);
}

absl::Status ParseName(absl::string_view text, absl::string_view name, std::string& result) {
  if (name.empty() || name.size() > kNameMax) {
    return Invalid(
        text, absl::StrCat("the name has ", name.size(), " characters, expected 1 to ", kNameMax));
  }
  for (size_t i = 0; i < name.size(); ++i) {
    if (!IsNameCharacter(name[i])) {
      return Invalid(text, absl::StrCat("name ", Quoted(name), " has ", Quoted(name.substr(i, 1)),
                                        ", a name has only letters, digits and . _ -"));
    }
  }
  result = std::string(name);
  return absl::OkStatus();
}

// `path` begins with a slash.
absl::Status ParsePath(absl::string_view text, absl::string_view path, std::string& result) {
  if (path.size() > kPathMax) {
    return Invalid(text, absl::StrCat("the path has ", path.size(), " bytes, more than ", kPathMax,
                                      ", the most that a Unix socket's address holds"));
  }
  for (size_t i = 0; i < path.size(); ++i) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(path[i]))) {
      return Invalid(
          text, absl::StrCat("the path has the control character ", Quoted(path.substr(i, 1))));
    }
  }
  const absl::string_view last = path.substr(path.rfind('/') + 1);
  if (last.empty() || last == "." || last == "..") {
    return Invalid(text, "the path names a directory, expected that of a socket in one");
  }
  result = std::string(path);
  return absl::OkStatus();
}

absl::Status ParseUnix(absl::string_view text, absl::string_view rest, std::string& path) {
  constexpr absl::string_view kExpected = "expected unix:/path";
  if (absl::StartsWith(rest, "//")) {
    return Invalid(text, absl::StrCat("no // after unix:, ", kExpected));
  }
  if (absl::StartsWith(rest, "@")) {
    return Invalid(text, absl::StrCat("abstract sockets are not supported, because no permissions "
                                      "guard them, ",
                                      kExpected));
  }
  if (rest.empty()) return Invalid(text, absl::StrCat("the path is missing, ", kExpected));
  if (rest[0] != '/') {
    return Invalid(text, absl::StrCat("path ", Quoted(rest), " is relative, ", kExpected));
  }
  return ParsePath(text, rest, path);
}

absl::Status ParseShm(absl::string_view text, absl::string_view rest, Endpoint& endpoint) {
  if (absl::StartsWith(rest, "//")) {
    return Invalid(text, "no // after shm:, expected shm:name or shm:/path");
  }
  if (absl::StartsWith(rest, "/")) return ParsePath(text, rest, endpoint.path);
  return ParseName(text, rest, endpoint.name);
}

}  // namespace

absl::StatusOr<Endpoint> Endpoint::Parse(absl::string_view text) {
  Endpoint endpoint;
  absl::string_view rest = text;
  absl::Status parsed;
  if (absl::ConsumePrefix(&rest, "tcp:")) {
    endpoint.scheme = Scheme::kTcp;
    if (absl::StartsWith(rest, "//")) {
      return Invalid(text, "no // after tcp:, expected tcp:host:port");
    }
    parsed = ParseHostPort(text, rest, endpoint.host, endpoint.port);
  } else if (absl::ConsumePrefix(&rest, "mi7://")) {
    endpoint.scheme = Scheme::kMi7;
    parsed = ParseHostPort(text, rest, endpoint.host, endpoint.port);
  } else if (absl::ConsumePrefix(&rest, "inproc:")) {
    endpoint.scheme = Scheme::kInproc;
    parsed = ParseName(text, rest, endpoint.name);
  } else if (absl::ConsumePrefix(&rest, "unix:")) {
    endpoint.scheme = Scheme::kUnix;
    parsed = ParseUnix(text, rest, endpoint.path);
  } else if (absl::ConsumePrefix(&rest, "shm:")) {
    endpoint.scheme = Scheme::kShm;
    parsed = ParseShm(text, rest, endpoint);
  } else if (absl::StartsWith(text, "mi7:")) {
    return Invalid(text, "// is missing after mi7:, expected mi7://host:port");
  } else {
    const size_t colon = text.find(':');
    if (text.empty()) return Invalid(text, absl::StrCat("empty, expected ", kForms));
    if (colon == absl::string_view::npos || colon == 0) {
      return Invalid(text, absl::StrCat("the scheme is missing, expected ", kForms));
    }
    return Invalid(text, absl::StrCat("unknown scheme ", Quoted(text.substr(0, colon)),
                                      ", expected ", kForms));
  }
  if (!parsed.ok()) return parsed;
  return endpoint;
}

std::string Endpoint::ToString() const {
  switch (scheme) {
    case Scheme::kInproc:
      return absl::StrCat("inproc:", name);
    case Scheme::kUnix:
      return absl::StrCat("unix:", path);
    case Scheme::kShm:
      return absl::StrCat("shm:", path.empty() ? name : path);
    case Scheme::kTcp:
    case Scheme::kMi7:
      break;
  }
  const bool ipv6 = absl::StrContains(host, ':');
  return absl::StrCat(scheme == Scheme::kMi7 ? "mi7://" : "tcp:", ipv6 ? "[" : "",
                      host.empty() ? "*" : host, ipv6 ? "]" : "", ":", port);
}

absl::Status Endpoint::CheckConnectable() const {
  if (scheme != Scheme::kTcp && scheme != Scheme::kMi7) return absl::OkStatus();
  if (host.empty()) {
    return Invalid(ToString(), "the host is missing; only a server may leave it out");
  }
  if (port == 0) {
    return Invalid(ToString(), "port 0 cannot be connected to; it lets a server pick a free port");
  }
  return absl::OkStatus();
}

}  // namespace mi7::transport
