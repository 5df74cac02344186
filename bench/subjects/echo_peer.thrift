// The calls of the bench, for Thrift: as reflect in echo.capnp.

namespace cpp mi7.bench.thrift_peer

service EchoPeer {
  // Answers with the bytes it was given.
  binary reflect(1: binary data)
}
