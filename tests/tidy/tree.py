"""The files of the tree, as the rules see them."""

import os
import re

# Not ours to judge: outputs, and files that are the way they are because something made them so.
_SKIPPED_FOLDERS = {"expected", "testdata", "__pycache__"}

_COMMENT_OR_STRING = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"([^()\s\\]{0,16})\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.DOTALL,
)


class Tree:
    """Reads each file once. Paths are relative to the root, with '/'."""

    def __init__(self, root):
        self.root = root
        self._paths = None
        self._texts = {}

    def paths(self, *endings):
        """All files, sorted; with arguments, those of which the name ends with one of them."""
        if self._paths is None:
            self._paths = sorted(self._walk())
        return [path for path in self._paths if not endings or path.endswith(endings)]

    def cpp(self):
        """All C++ files."""
        return self.paths(".h", ".cc")

    def has(self, path):
        """Whether there is such a file."""
        return os.path.isfile(os.path.join(self.root, path))

    def text(self, path):
        """The text of a file."""
        if path not in self._texts:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
                self._texts[path] = file.read()
        return self._texts[path]

    def lines(self, path):
        """The lines of a file."""
        return self.text(path).split("\n")

    def code_lines(self, path):
        """The lines of a C++ file with comments and literals blanked out."""
        return _COMMENT_OR_STRING.sub(_blank, self.text(path)).split("\n")

    def _walk(self):
        for folder, folders, files in os.walk(self.root):
            folders[:] = [
                name
                for name in folders
                if not name.startswith((".", "bazel-")) and name not in _SKIPPED_FOLDERS
            ]
            for name in files:
                yield os.path.relpath(os.path.join(folder, name), self.root)


def _blank(match):
    text = match.group(0)
    # Digit separators ('1'000') are no literals: a quote right after a digit or letter.
    start = match.start()
    if text[0] == "'" and start > 0 and match.string[start - 1].isalnum():
        return text
    return re.sub(r"[^\n]", " ", text)
