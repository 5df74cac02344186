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
# Reserved: this version of capnpc-mi7 refuses a method that has it, so that no schema comes to rely
# on it before streams exist. (Cap'n Proto's own `-> stream` means another thing, a one-way call with
# flow control, and is refused too.)
