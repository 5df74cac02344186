@0xe1f0a3b4c5d60007;

interface Upload {
  write @0 (chunk :Data, to :Upload) -> stream;
  done @1 ();
}
