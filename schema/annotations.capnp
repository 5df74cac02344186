# Annotations with a meaning for mi7's code generator, capnpc-mi7.
#
#     using Mi7 = import "/mi7/annotations.capnp";
#
# With Bazel, add "@mi7//schema:annotations_capnp" to the deps of the library whose schema imports
# this; otherwise give `capnp compile` an import path (-I) with this file in its folder mi7/.
#
# Names in C++ are not set here but with Cap'n Proto's own annotations, $Cxx.namespace and
# $Cxx.name, which mi7 respects.

@0xa38a9af7a3270c24;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mi7::schema");

enum Streaming {
  # Which side of a call sends any number of messages instead of one.

  client @0;
  # The caller sends many parameter messages, the service answers once.

  server @1;
  # The caller sends its parameters once, the service answers with many result messages.

  bidirectional @2;
  # Both send many messages, independently of each other.
}

annotation streaming @0xf8e6c4a529e8e02b (method) :Streaming;
# Makes a method a stream: each message has the method's parameter or result type, and the method's
# final status ends the stream. For instance
#
#     watch @0 (prefix :Text) -> (key :Text, value :Data) $Mi7.streaming(server);
#
# To add it to a method, remove it or change it, is to make another method of it: clients and servers
# with different schemas do not understand each other then. A stream that may have run is never
# repeated, so $Mi7.retryable and its like are not for it, nor for Cap'n Proto's own `-> stream`, which
# means another thing, a one-way call with flow control.

# How a method may be called: $timeout, $retryable, $idempotent and $deduplicate. Channels and servers
# act on them by themselves (docs/RETRIES.md).

annotation timeout @0xd35e516e102fab01 (method) :UInt32;
# How long a caller waits for the method's answer, in milliseconds, unless its call has a deadline of
# its own (CallOptions::deadline). From 1 to 2,147,483,647 (24 days), which is as far as the wire
# counts.
#
#     lookUp @0 (name :Text) -> (address :Text) $Mi7.timeout(500) $Mi7.idempotent;

annotation retryable @0xfca296045ef6faef (method) :Void;
# The service promises that an answer UNAVAILABLE means that nothing was done: such a call can be
# repeated. One of which it is not known whether it ran cannot. (What was refused, or not sent, is
# repeated whatever its method.)

annotation idempotent @0xc2f31c6ae1ecd4d6 (method) :Void;
# Calling it twice does what calling it once does. So a call can also be repeated when it may have run
# already, and may be sent twice at once to get the quicker answer. Includes $Mi7.retryable.

enum Priority {
  # How a call fares when the server is full.

  normal @0;
  # It is refused when one of the server's limits is reached.

  control @1;
  # It has room of its own.
}

annotation priority @0x8f2a6c1d94e5b370 (method) :Priority;
# Marks the few methods by which a server is watched and steered: its health, its administration. With
# $Mi7.priority(control) their calls count for none of the limits that hold back others, but for one of
# their own, so that they are answered when the server takes on nothing else (docs/OPERATIONS.md). They
# should be quick, and answer inline.

annotation deduplicate @0xba58983b3f1d63c4 (method) :Void;
# The server recognizes a call that is repeated, and answers what it answered before instead of
# running the method again. For methods that must not run twice: a call of one can also be repeated
# when it may have run already. It costs a random id and a copy of the request at the client, and a
# copy of the answer, kept for a while, at the server (ServerOptions::deduplication). What is kept
# does not survive the server; a call that may have run before a restart is not run by itself.
