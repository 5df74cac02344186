@0xd1b2a1f0c7e34a67;
# What travels on a mi7 connection besides the fixed 32-byte header of each message: the handshake,
# and the optional "extra" part of calls, returns, go-aways and closes. docs/WIRE.md tells when each is used.
#
# Evolution: fields are only added. A receiver ignores fields it does not know; a feature that
# must not be ignored is negotiated by a bit in Hello.features.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mi7::protocol");

const featureSharedMemory :UInt64 = 1;
# A bit of Hello.features, meant on Unix sockets only. From a client: it offers to go on over shared
# memory, and its half's descriptor comes with the message. From a server: it accepts, and its own
# half's descriptor comes with the message.

const featureStreams :UInt64 = 2;
# A bit of Hello.features: the sender can use streams, and streamWindowBytes says how much of one it
# accepts.

const featureRequestIds :UInt64 = 4;
# A bit of Hello.features: the sender, where it is called, recognizes calls by CallExtra.requestId and
# minds CallExtra.mayHaveRunForUs. A call that may have run is not repeated for the sake of its id with
# a peer that does not say so.

struct Hello {
  # The first message in each direction, right after the 8-byte preface.

  versionMin @0 :UInt16;
  versionMax @1 :UInt16;
  # The range of protocol versions that the sender speaks. The connection uses the highest that both
  # speak; without one the receiver answers with a close message and FAILED_PRECONDITION.

  features @2 :UInt64;
  # A bit for each optional feature that the sender can use. In force are the bits that both sent;
  # unknown bits are ignored. Bit 0 is featureSharedMemory, bit 1 featureStreams,
  # bit 2 featureRequestIds.

  messageBytesMax @3 :UInt32;
  # The largest message, header included, that the sender of this Hello accepts. The peer fails
  # larger ones before sending a byte of them.

  callsInFlightMax @4 :UInt32;
  # How many calls the sender of this Hello accepts at a time on this connection.

  implementation @5 :Text;
  # Name and version for logs, such as "mi7/0.1". Never used to decide anything. At most 128 bytes.

  instanceId @6 :Data;
  # 16 random bytes that identify the sending process's server or channel for as long as it lives; a
  # client sees by it that it reached another server than before. May be empty.

  localRefusal @7 :Text;
  # From a server that was offered shared memory and answers without the bit: why, for people. At most
  # 256 bytes.

  streamWindowBytes @8 :UInt32;
  # With featureStreams: how many bytes of stream messages, headers included, the sender of this Hello
  # accepts on each stream before it grants more. At least 1.
}

struct CallExtra {
  # The extra part of a call.

  metadata @0 :List(MetadataEntry);
  # In the order the caller gave; keys may repeat.

  traceContext @1 :TraceContext;
  # Which trace the call belongs to; absent where it belongs to none.

  capabilities @2 :List(CapabilityDescriptor);
  # The capability table of the parameters; pointers of type interface in the body index it.

  promisedAnswer @3 :List(UInt16);
  # For target kind promised answer: the pointer fields to follow from the root of that answer.

  requestId @4 :Data;
  # Identifies the request across retries, for servers that deduplicate. At most 64 bytes, of which
  # 16 should be random.

  previousAttempts @5 :UInt16;
  # How many attempts at this call the caller has made before this one.

  mayHaveRunForUs @6 :UInt64;
  # With a request id: so many microseconds, rounded up, before this attempt was sent the caller sent
  # the first one of which it does not know that it has not run. 0: there is none.
}

struct ReturnExtra {
  # The extra part of a return.

  error @0 :ErrorInfo;
  # Present when the header's code is not 0.

  trailingMetadata @1 :List(MetadataEntry);
  # What the callee says with the end of the call, be it results or an error. In its order; keys may
  # repeat.

  capabilities @2 :List(CapabilityDescriptor);
  # The capability table of the results.

  initialMetadata @3 :List(MetadataEntry);
  # What the callee said before its results, unless a message of a stream has brought it.
}

struct GoAwayExtra {
  # The extra part of a GoAway. Without it, or with namesAccepted false, a GoAway says nothing of calls.

  namesAccepted @0 :Bool;
  # Whether `accepted` is meant: an absent list looks like an empty one.

  accepted @1 :Data;
  # A bit for each id of a call of this connection, bit 0 of byte 0 for id 0, bit 1 for id 1, and so on:
  # whether the sender has accepted the call and its return does not come before this message. Ids
  # behind the end have none. It will accept no other call, so one without a bit, and whose return has
  # not arrived before, does not run here.
}

struct ErrorInfo {
  # What a status says besides its canonical code, which is in the header. Also the extra part of a
  # close message.

  message @0 :Text;
  # For people.

  details @1 :List(ErrorDetail);
  # For programs.

  refused @2 :Bool;
  # The receiver guarantees that it has not begun to run the call: repeating it elsewhere is safe.
}

struct ErrorDetail {
  # One typed payload of a status.

  type @0 :Text;
  # What it is; the payload's type URL in absl::Status. For a Cap'n Proto struct: "capnp/" and the 16
  # hex digits of its type id.

  value @1 :Data;
  # Its bytes; for a Cap'n Proto struct a message in stream form.
}

struct MetadataEntry {
  key @0 :Text;
  # 1 to 256 of [a-z0-9_.-].

  value :union {
    text @1 :Text;
    # UTF-8 without characters below 0x20 and 0x7f.
    binary @2 :Data;
    # Any bytes.
  }
}

struct TraceContext {
  # W3C Trace Context, https://www.w3.org/TR/trace-context/.

  traceparent @0 :Text;
  # "00-", the trace's id and the span's id in lower-case hex, and flags. One that is malformed counts as
  # absent.

  tracestate @1 :Text;
  # What tracing systems add, as a list of key=value. Dropped where it is malformed or longer than 512
  # bytes.
}

struct CapabilityDescriptor {
  # One entry of a capability table, after Cap'n Proto RPC's (rpc.capnp). Reserved: no version sends it yet.

  union {
    none @0 :Void;
    senderHosted @1 :UInt32;
    # An export id of the sender of this message.
    receiverHosted @2 :UInt32;
    # An import id: the receiver exported it earlier.
    promisedAnswer :group {
      # Will be in the answer of an earlier call.
      callId @3 :UInt32;
      path @4 :List(UInt16);
    }
  }
}
