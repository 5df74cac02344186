"""The rules of the tree. Each takes a Tree and yields (path, what is wrong)."""

import os
import re

from includes import includes_what_is_precompiled

# --- Which folder may include which. `base <- transport <- rpc <- generated code <- examples, tools`.

# Folders whose headers a file of a folder may include, itself aside. Generated headers count as the
# folder of their schema. What is not here may include everything: it composes, tests or measures.
MAY_INCLUDE = {
    "base": set(),
    "schema": set(),
    "transport": {"base", "schema"},
    "channels": {"base", "transport"},
    "rpc": {"base", "schema", "transport"},
    "codegen": set(),
    "third_party": set(),
    "examples": {"base", "schema", "transport", "channels", "rpc"},
}

# The seam between rpc and transports: all that rpc/ may include of transport/. Which transports
# there are is decided behind transports.h; rpc/ must not come to know one.
SEAM = {
    "transport/buffer_pool.h",
    "transport/callback_scope.h",
    "transport/completion.h",
    "transport/connection.h",
    "transport/connection_decorator.h",
    "transport/copy_counter.h",
    "transport/driving_thread.h",
    "transport/endpoint.h",
    "transport/event_loop.h",
    "transport/for_overwrite.h",
    "transport/frame.h",
    "transport/instance_id.h",
    "transport/local_options.h",
    "transport/message.h",
    "transport/transports.h",
    "transport/wait_policy.h",
}

FOLDERS = {
    "base",
    "transport",
    "channels",
    "rpc",
    "schema",
    "codegen",
    "examples",
    "tests",
    "bench",
    "tools",
}

_INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def _includes(tree, path):
    """(line number, '"' or '<', included path) of each include."""
    for number, line in enumerate(tree.lines(path), 1):
        match = _INCLUDE.match(line)
        if match:
            yield number, match.group(1), match.group(2)


def include_direction(tree):
    """Includes point from upper layers to lower ones, and rpc/ sees transport/ by its seam only."""
    for path in tree.cpp():
        folder = path.split("/")[0]
        for number, _, included in _includes(tree, path):
            target = included.split("/")[0]
            if target not in FOLDERS or target == folder:
                continue
            if folder in MAY_INCLUDE and target not in MAY_INCLUDE[folder]:
                yield path, "line %d: %s/ must not include %s" % (number, folder, included)
            elif folder == "rpc" and target == "transport" and included not in SEAM:
                yield path, (
                    "line %d: %s is not a part of the seam between rpc/ and transport/; "
                    "include one of the headers in SEAM of tests/tidy/rules.py" % (number, included)
                )


def libuv_in_transport_only(tree):
    """uv.h is included below transport/ only."""
    for path in tree.cpp():
        if path.startswith(("transport/", "third_party/")):
            continue
        for number, _, included in _includes(tree, path):
            if included == "uv.h" or included.startswith("uv/"):
                yield path, "line %d: <%s> may be included below transport/ only" % (number, included)


def root_relative_includes(tree):
    """Our headers are included by their path from the root."""
    for path in tree.cpp():
        for number, quote, included in _includes(tree, path):
            if quote == '"' and ("/" not in included or included.startswith(".")):
                yield path, 'line %d: include "%s" by its path from the root' % (number, included)
            if quote == "<" and included.split("/")[0] in FOLDERS and "/" in included:
                yield path, 'line %d: include "%s" with quotes' % (number, included)


# --- Headers


def pragma_once(tree):
    """Every header has it."""
    for path in tree.paths(".h"):
        if "#pragma once" not in tree.lines(path):
            yield path, "has no #pragma once"


def no_using_namespace(tree):
    """A header pours no namespace into those who include it."""
    for path in tree.paths(".h"):
        for number, line in enumerate(tree.code_lines(path), 1):
            if re.match(r"(using namespace\b)", line):
                yield path, "line %d: using namespace in a header" % number


# --- BUILD files


def private_visibility(tree):
    """Targets are private unless they say otherwise, one by one."""
    for path in tree.paths("BUILD", "BUILD.bazel"):
        if re.search(
            r"default_visibility\s*=\s*\[[^\]]*//visibility:public", tree.text(path), re.DOTALL
        ):
            yield path, "default_visibility is public; make targets public one by one"


def strict_builds(tree):
    """.bazelrc makes warnings errors in each of our folders, and forbids downloads."""
    bazelrc = ".bazelrc"
    options = [
        option
        for line in (tree.lines(bazelrc) if tree.has(bazelrc) else [])
        if line.startswith("build ")  # those of every build, whatever its --config
        for option in line.split()[1:]
    ]
    if "--experimental_repository_disable_download" not in options:
        yield bazelrc, "lacks --experimental_repository_disable_download"
    matches = [re.match(r"--per_file_copt=([^@]*)@(.*)", option) for option in options]
    strict = [
        match.group(1)
        for match in matches
        if match and {"-Wall", "-Wextra", "-Werror"} <= set(match.group(2).split(","))
    ]
    for folder in sorted(FOLDERS | {"third_party"}):
        source = "//%s:source.cc" % folder
        if not any(re.search(pattern, source) for pattern in strict):
            yield bazelrc, "warnings in %s/ are no errors (-Wall, -Wextra, -Werror)" % folder


def every_source_is_built(tree):
    """A source that no BUILD file names compiles nowhere; a test among them never runs."""
    for path in tree.cpp():
        build = _build_file_of(tree, path)
        if build is None:
            yield path, "is below no BUILD file"
            continue
        name = os.path.relpath(path, os.path.dirname(build) or ".")
        text = tree.text(build)
        if '"%s"' % name not in text and "glob(" not in text:
            yield path, "is not named in %s" % build


def _build_file_of(tree, path):
    folder = os.path.dirname(path)
    while True:
        build = os.path.join(folder, "BUILD")
        if tree.has(build):
            return build
        if not folder:
            return None
        folder = os.path.dirname(folder)


# --- Documents that tell what BUILD and other files say

_RULE = re.compile(r"^(\w+)\(\n(.*?)^\)", re.MULTILINE | re.DOTALL)


def _rules_of(tree):
    """(BUILD file, label from the root, text) of each rule that a BUILD file names."""
    for path in tree.paths("BUILD"):
        package = os.path.dirname(path)
        for match in _RULE.finditer(tree.text(path)):
            name = re.search(r'^ {4}name = "([^"]+)"', match.group(2), re.MULTILINE)
            if name:
                short = os.path.basename(package) == name.group(1)
                label = "//%s" % package if short else "//%s:%s" % (package, name.group(1))
                yield path, match.group(1), label, match.group(2)


def public_libraries_in_readme(tree):
    """README.md names every library that other workspaces may use, and none else."""
    if not tree.has("README.md"):
        return
    named = set(re.findall(r"`@mi7(//[\w/:-]+)`", tree.text("README.md")))
    rules = list(_rules_of(tree))
    for path, kind, label, text in rules:
        public = "//visibility:public" in text
        ours = path.startswith(("examples/", "third_party/", "tools/", "tests/"))
        if public and not ours and kind.endswith("_library") and label not in named:
            yield path, "README.md does not name @mi7%s, which is public" % label
        if not public and label in named:
            yield path, "README.md names @mi7%s, which is not public" % label
    for label in sorted(named - {label for _, _, label, _ in rules} - {"//codegen:defs.bzl"}):
        yield "README.md", "names @mi7%s, which there is not" % label


# What a workspace that uses mi7 must have, and the documents that say so.
_WORKSPACE_DOCS = ["README.md", "codegen/README.md"]


def workspace_lines_in_readme(tree):
    """What tests/foreign_workspace needs in its .bazelrc and WORKSPACE, the documents say."""
    bazelrc = "tests/foreign_workspace/.bazelrc"
    workspace = "tests/foreign_workspace/WORKSPACE"
    if not tree.has(bazelrc):
        return
    # The first paragraph; what follows is there for the test.
    lines = tree.text(bazelrc).split("\n\n")[0].splitlines()
    needed = [line for line in lines if not line.startswith("#")]
    if not needed:
        yield bazelrc, "does not begin with what a workspace needs"
    for doc in _WORKSPACE_DOCS:
        for line in needed:
            if line not in tree.lines(doc):
                yield doc, "lacks a line that %s needs: %s" % (bazelrc, line)
    for line in tree.lines(workspace):
        if line.startswith(("load(", "mi7_")) and line not in tree.lines("README.md"):
            yield "README.md", "lacks a line that %s needs: %s" % (workspace, line)


def exclusions_documented(tree):
    """docs/TESTING.md names every test that does not run under each sanitizer."""
    doc = "docs/TESTING.md"
    if not tree.has(doc):
        return
    for path, _, label, text in _rules_of(tree):
        tags = re.search(r"\btags = \[(.*?)\]", text, re.DOTALL)
        excluded = re.findall(r'"(no_\w+)"', tags.group(1)) if tags else []
        for tag in excluded:
            lines = [line for line in tree.lines(doc) if "`%s`" % tag in line]
            if not any("`%s`" % label in line for line in lines):
                yield path, "%s has no line on %s, which is %s" % (doc, label, tag)


STRICT = [
    include_direction,
    libuv_in_transport_only,
    root_relative_includes,
    includes_what_is_precompiled,
    pragma_once,
    no_using_namespace,
    private_visibility,
    strict_builds,
    every_source_is_built,
    public_libraries_in_readme,
    workspace_lines_in_readme,
    exclusions_documented,
]

# --- What the ratchet counts

LINES_MAX = 500


def long_file(tree):
    """A file over 500 lines asks to be split."""
    for path in tree.paths(".h", ".cc", ".py", ".sh", ".bzl", ".capnp"):
        lines = tree.text(path).count("\n")
        if lines > LINES_MAX:
            yield path, "has %d lines, more than %d: is it still one concept?" % (lines, LINES_MAX)


def unfinished(tree):
    """Marks of unfinished work."""
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in tree.paths():
        if path.startswith("tests/tidy/") or not _is_source(path):
            continue
        for number, line in enumerate(tree.lines(path), 1):
            if mark.search(line):
                yield path, "line %d: %s" % (number, line.strip())


def _is_source(path):
    name = os.path.basename(path)
    return name.endswith((".h", ".cc", ".py", ".sh", ".bzl", ".capnp", ".md")) or "." not in name


_SLEEP = re.compile(r"\b(sleep_for|sleep_until|usleep|nanosleep|clock_nanosleep|SleepFor|sleep)\s*\(")


def sleep_in_test(tree):
    """A test waits for the thing, with a deadline, and not for the time that it may take."""
    for path in tree.cpp():
        if not _is_test(path):
            continue
        for number, line in enumerate(tree.code_lines(path), 1):
            if _SLEEP.search(line):
                yield path, "line %d: sleeps: %s" % (number, line.strip())
    for path in tree.paths("_test.sh", "_test.py"):
        if path.startswith("tests/tidy/"):
            continue
        for number, line in enumerate(tree.lines(path), 1):
            if re.search(r"(^|[\s;&|])sleep\s+[\d.$]|time\.sleep\(", line.split("#")[0]):
                yield path, "line %d: sleeps: %s" % (number, line.strip())


def _is_test(path):
    return path.startswith("tests/") or re.search(r"(_test|_testing|_conformance)\.(h|cc)$", path)


def disabled_test(tree):
    """A test that does not run proves nothing."""
    for path in tree.cpp():
        for number, line in enumerate(tree.code_lines(path), 1):
            if re.search(r"\bDISABLED_", line):
                yield path, "line %d: disabled: %s" % (number, line.strip())


def detached_thread(tree):
    """Every thread is joined by somebody."""
    for path in tree.cpp():
        for number, line in enumerate(tree.code_lines(path), 1):
            if re.search(r"\.detach\(\)|pthread_detach\(", line):
                yield path, "line %d: detaches a thread: %s" % (number, line.strip())


_TYPE = re.compile(
    r"^(?:class|struct|enum class|enum)\s+"
    r"(?:ABSL_\w+(?:\([^)]*\))?\s+|\[\[[^\]]*\]\]\s+|alignas\(\w+\)\s+)*"
    # Not a declaration without a body.
    r"(\w+)(?![^{]*;\s*$)"
)
_INTERNAL_NAMESPACE = re.compile(r"^namespace\s+(?:[\w:]*(?:internal|detail)\w*\s*)?\{")


def undocumented_type(tree):
    """Every type at namespace scope of a header has a comment that says what it is.

    One above it, or the overview that opens the header, if that names the type.
    """
    for path in tree.paths(".h"):
        if _is_test(path) or path.startswith("bench/"):
            continue
        lines = tree.lines(path)
        overview = _overview(lines)
        internal = False
        for index, line in enumerate(lines):
            if _INTERNAL_NAMESPACE.match(line):
                internal = True
            elif line.startswith("}  // namespace"):
                internal = False
            match = _TYPE.match(line)
            if not match or internal or _is_documented(lines, index):
                continue
            if not re.search(r"\b%s\b" % match.group(1), overview):
                yield path, "line %d: %s has no comment" % (index + 1, match.group(1))


def _overview(lines):
    """The comments above the first line of code that is no directive."""
    comments = []
    for line in lines:
        if line.startswith("//"):
            comments.append(line)
        elif line.strip() and not line.startswith("#"):
            break
    return "\n".join(comments)


def _is_documented(lines, index):
    index -= 1
    while index >= 0 and re.match(r"template\b|requires\b|\s+\S.*>$|\[\[", lines[index]):
        index -= 1
    return index >= 0 and (lines[index].startswith("//") or lines[index].rstrip().endswith("*/"))


RATCHETED = {
    "long_file": long_file,
    "unfinished": unfinished,
    "sleep_in_test": sleep_in_test,
    "disabled_test": disabled_test,
    "detached_thread": detached_thread,
    "undocumented_type": undocumented_type,
}
