@0xb4d8e11688fa3b62;
# Files below one directory of a server: look, read and write, in bounded pieces.
#
# A path names a file relative to the server's root, with single slashes and without "." and "..":
# "docs/WIRE.md". The root itself is ".". Every method answers INVALID_ARGUMENT for a path that is
# empty, absolute, too long or holds a NUL byte or "..", NOT_FOUND for one that does not exist, and
# PERMISSION_DENIED for one that the server's user may not use or that leads out of the root through
# a symbolic link. Methods that change something follow no symbolic links at all, and answer
# PERMISSION_DENIED when the server is read-only.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("files");

const rangeBytesMax :UInt32 = 1048576;
# Bytes of one read or write.

const entriesMax :UInt32 = 1000;
# Entries of one page of a directory.

interface FileStore {
  stat @0 (path :Text) -> (info :FileInfo);
  # What the path names. Follows symbolic links that stay below the root.

  list @1 (path :Text, after :Text, limit :UInt32) -> (entries :List(Entry), more :Bool);
  # Entries of a directory in the byte order of their names: those after the name "after" (empty:
  # from the first on), at most "limit" of them (0 or above entriesMax: entriesMax). With "more",
  # there are further ones after the last. Symbolic links are listed as such.
  # FAILED_PRECONDITION when the path is no directory.

  read @2 (path :Text, offset :UInt64, size :UInt32, version :UInt64)
      -> (data :Data, info :FileInfo);
  # At most "size" bytes (up to rangeBytesMax, else INVALID_ARGUMENT) from "offset" on; fewer only
  # at the end of the file. With a "version" that is not 0, FAILED_PRECONDITION when the file is
  # not that version of it any more: so all ranges are of one file. FAILED_PRECONDITION also when
  # the path is no regular file.

  makeDirectory @3 (path :Text, mode :UInt16) -> ();
  # ALREADY_EXISTS when there is something of that name, NOT_FOUND when there is no directory to
  # make it in.

  remove @4 (path :Text) -> ();
  # Removes a file, a symbolic link (not what it points to), or an empty directory;
  # FAILED_PRECONDITION for a directory that is not empty and for the root.

  create @5 (path :Text, mode :UInt16, replace :Bool) -> (upload :UInt64);
  # Begins to write a file with the permissions "mode" (up to 0777). Nobody sees it until finish.
  # ALREADY_EXISTS when there is something of that name, unless "replace" is set and it is a file.
  # RESOURCE_EXHAUSTED when too many uploads are open. An upload that is left alone for ten minutes
  # is forgotten.

  write @6 (upload :UInt64, offset :UInt64, data :Data) -> ();
  # Writes a range of up to rangeBytesMax bytes (else INVALID_ARGUMENT). Ranges may come in any
  # order. NOT_FOUND when there is no such upload: it was finished, aborted or forgotten.

  finish @7 (upload :UInt64, size :UInt64) -> (info :FileInfo);
  # Cuts the file to "size" bytes and gives it its name, at once: others see the whole new file, or
  # what was there before. FAILED_PRECONDITION when it has fewer bytes, so that a range is missing.
  # ALREADY_EXISTS as for create. The upload ends in any case.

  abort @8 (upload :UInt64) -> ();
  # Forgets the upload and what was written. OK when there is no such upload.
}

enum Kind {
  file @0;
  directory @1;
  symlink @2;
  other @3;
  # A device, a socket or a pipe. It can be listed and not opened.
}

struct FileInfo {
  kind @0 :Kind;
  size @1 :UInt64;
  # Bytes; 0 for what is no file.
  mode @2 :UInt16;
  # Permission bits, 0777.
  modifiedNs @3 :Int64;
  # Nanoseconds since 1970, UTC.
  version @4 :UInt64;
  # Changes when the file is replaced or written to. Never 0.
}

struct Entry {
  name @0 :Text;
  info @1 :FileInfo;
}
