// The calls of the bench, for Thrift: as reflect, pour and drain in echo.capnp.

namespace cpp mi7.bench.thrift_peer

// Of messages: how many, and which.
struct Tally {
  1: i64 messages
  2: i64 digest
}

service EchoPeer {
  // Answers with the bytes it was given.
  binary reflect(1: binary data)

  // Takes a message of a stream.
  oneway void pour(1: binary data)
  // Of what was poured since the last time.
  Tally drain()
}
