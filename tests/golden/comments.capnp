@0xd1f0a3b4c5d60009;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("golden::comments");

interface Commented {
  # A first line that is much longer than a hundred columns, as people write them who let their editor wrap the text of a comment.
  #
  #   An indented line, and a word that is too long for any line:
  #   https://example.com/a/very/long/address/that/goes/on/and/on/and/on/for/more/than/a/hundred/columns/and/on
  #
  # Ends in a backslash \
  # and in a trigraph ??/
  # with a tab	inside, /* an opened comment, */ a closed one, "quotes" and <brackets>.
  # Fünf Größen, 日本語, and marks that reverse ‮the text‬ around them.

  aMethodWithAVeryLongNameAsSomeOrganizationsHaveThem @0 (
      aParameterWithALongName :Text, anotherParameterWithALongName :List(Text),
      yetAnotherParameterWithAnEvenLongerName :Data) -> (theResultWithALongName :UInt64);
  # Trailing blank lines are dropped.
  #
  #

  undocumented @1 ();
}
