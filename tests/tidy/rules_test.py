#!/usr/bin/python3
"""Each rule finds the violation that it is there for, in a tree that is sound without it."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tidy  # noqa: E402
from tree import Tree  # noqa: E402

SOUND = {
    ".bazelrc": (
        "build --experimental_repository_disable_download\n"
        "build --per_file_copt=^(//)?(base|transport|channels|rpc|schema|codegen|examples|tests|bench"
        "|tools|third_party)[/:].*[.]cc$@-Wall,-Wextra,-Werror\n"
    ),
    "base/BUILD": 'cc_library(name = "clock", srcs = ["clock.cc"], hdrs = ["clock.h"])\n',
    "base/clock.h": "#pragma once\n\n#include <ctime>\n\n// Tells the time.\nclass Clock {};\n",
    "base/clock.cc": '#include "base/clock.h"\n',
    "transport/BUILD": 'hdrs = ["connection.h", "tcp/socket.h"]\n',
    "transport/connection.h": (
        "#pragma once\n\n// A Connection carries messages.\n\n"
        '#include "base/clock.h"\n#include "schema/protocol.capnp.h"\n\nclass Connection {};\n'
    ),
    "transport/tcp/socket.h": "#pragma once\n#include <uv.h>\n",
    "rpc/BUILD": 'srcs = ["channel.cc", "channel_test.cc"], hdrs = ["channel.h"]\n',
    "rpc/channel.h": (
        '#pragma once\n#include "transport/connection.h"\n\n'
        "// Where calls go.\ntemplate <typename T>\nclass Channel final {\n};\n"
    ),
    "rpc/channel.cc": '#include "rpc/channel.h"\n\nint million = 1\'000\'000;\n',
    "rpc/channel_test.cc": (
        '#include <thread>\n#include <gtest/gtest.h>\n#include "absl/time/time.h"\n'
        '#include "rpc/channel.h"\n// It never calls sleep_for(1s).\n'
    ),
    "codegen/BUILD": 'srcs = ["main.cc"]\n',
    "codegen/main.cc": "#include <capnp/schema.capnp.h>\n",
    "examples/hello/BUILD": 'srcs = ["hello.cc"]\n',
    "examples/hello/hello.cc": '#include "examples/hello/hello.mi7.h"\n#include "rpc/channel.h"\n',
    "tests/tidy/ratchet.txt": "# Nothing.\n",
    "bazel-out/rpc/wrong.h": "using namespace std;\n",
    "tests/golden/expected/wrong.h": "using namespace std;\n",
}


class RulesTest(unittest.TestCase):
    """Runs all rules over SOUND with some files replaced or added."""

    def problems(self, changes=None):
        """What tidy says of SOUND with these changes."""
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**SOUND, **(changes or {})}.items():
                if text is not None:
                    os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
                    with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                        file.write(text)
            return tidy.check(Tree(root))

    def assert_found(self, changes, expected):
        """The changes make exactly one problem, with this text in it."""
        problems = self.problems(changes)
        self.assertEqual(len(problems), 1, problems)
        self.assertIn(expected, problems[0])

    def assert_sound(self, changes):
        """The changes make no problem."""
        self.assertEqual(self.problems(changes), [])

    def added(self, path, text):
        """The changes that add a line of text to a file of SOUND."""
        return {path: SOUND[path] + text + "\n"}

    def test_sound_tree_has_no_problem(self):
        self.assertEqual(self.problems(), [])

    def test_upward_includes_are_found(self):
        for path, included in [
            ("base/clock.cc", "transport/connection.h"),
            ("base/clock.cc", "schema/protocol.capnp.h"),
            ("transport/connection.h", "rpc/channel.h"),
            ("transport/tcp/socket.h", "examples/hello/hello.mi7.h"),
            ("rpc/channel.cc", "examples/hello/hello.h"),
            ("rpc/channel.cc", "codegen/model.h"),
            ("rpc/channel_test.cc", "tools/mi7/list.h"),
            ("codegen/main.cc", "rpc/channel.h"),
            ("codegen/main.cc", "base/clock.h"),
            ("codegen/main.cc", "schema/protocol.capnp.h"),
            ("examples/hello/hello.cc", "bench/harness/stats.h"),
            ("examples/hello/hello.cc", "tests/conformance/calls.h"),
        ]:
            with self.subTest(path=path, included=included):
                folder = path.split("/", maxsplit=1)[0]
                self.assert_found(
                    self.added(path, '#include "%s"' % included),
                    "%s/ must not include %s" % (folder, included),
                )

    def test_concrete_transport_in_rpc_is_found(self):
        for included in ["transport/tcp/socket.h", "transport/inproc/pair.h"]:
            self.assert_found(
                self.added("rpc/channel.cc", '#include "%s"' % included),
                included + " is not a part of the seam",
            )

    def test_libuv_outside_transport_is_found(self):
        for line in ["#include <uv.h>", "#include <uv/unix.h>", "#  include <uv.h>"]:
            self.assert_found(self.added("rpc/channel.cc", line), "below transport/ only")

    def test_include_that_is_not_root_relative_is_found(self):
        self.assert_found(
            self.added("rpc/channel.cc", '#include "channel.h"'), "by its path from the root"
        )
        self.assert_found(
            self.added("rpc/channel.cc", '#include "../rpc/channel.h"'), "by its path from the root"
        )
        self.assert_found(self.added("rpc/channel.cc", "#include <rpc/channel.h>"), "with quotes")

    def test_use_of_what_others_include_is_found(self):
        says = "include <vector> for std::vector"
        self.assert_found(self.added("rpc/channel.cc", "std::vector<int> calls;"), says)
        self.assert_found(self.added("base/clock.h", "std::vector<int> ticks;"), says)
        # What a header of ours includes is there, and what a comment says is no use.
        self.assert_sound(
            {
                **self.added("base/clock.h", "#include <vector>\nstd::vector<int> ticks;"),
                **self.added("rpc/channel.cc", "std::vector<int> calls;"),
            }
        )
        self.assert_sound(self.added("rpc/channel.cc", "// Not a std::vector."))
        self.assert_sound(
            self.added("rpc/channel.cc", '#include "absl/status/statusor.h"\nabsl::string_view text;')
        )

    def test_precompiled_header_without_its_uses_is_found(self):
        self.assert_found(
            {
                "third_party/precompiled/BUILD": 'header = "system.h"\n',
                "third_party/precompiled/system.h": "#pragma once\n#include <valarray>\n",
            },
            "does not know what shows that <valarray> is needed",
        )

    def test_header_without_guard_is_found(self):
        self.assert_found({"transport/tcp/socket.h": "#include <uv.h>\n"}, "no #pragma once")

    def test_using_namespace_in_header_is_found(self):
        self.assert_found(self.added("base/clock.h", "using namespace std;"), "using namespace")

    def test_public_default_visibility_is_found(self):
        for build in [
            'package(default_visibility = ["//visibility:public"])\n',
            'package(\n    default_visibility = [\n        "//visibility:public",\n    ],\n)\n',
        ]:
            self.assert_found({"rpc/BUILD": build + SOUND["rpc/BUILD"]}, "default_visibility")

    def test_build_that_is_not_strict_is_found(self):
        bazelrc = SOUND[".bazelrc"]
        for line, expected in [
            ("--experimental_repository_disable_download", "disable_download"),
            ("|rpc", "warnings in rpc/ are no errors"),
            ("|third_party", "warnings in third_party/ are no errors"),
        ]:
            self.assert_found({".bazelrc": bazelrc.replace(line, "")}, expected)
        for lax in [
            bazelrc.replace(",-Werror", ""),
            bazelrc.replace("build --per_file", "build:opt --per_file"),
            bazelrc.replace("build --per_file", "# build --per_file"),
        ]:
            self.assertEqual(len(self.problems({".bazelrc": lax})), 11)

    def test_source_that_no_build_file_names_is_found(self):
        self.assert_found({"rpc/lost_test.cc": ""}, "is not named in rpc/BUILD")
        self.assert_found({"lost.cc": ""}, "is below no BUILD file")

    def test_long_file_is_found(self):
        self.assertEqual(self.problems({"base/long.py": "\n" * 500}), [])
        self.assert_found({"base/long.py": "\n" * 501}, "has 501 lines")

    def test_unfinished_work_is_found(self):
        for mark in ["TODO", "FIXME(name)", "XXX"]:
            self.assert_found(self.added("rpc/channel.cc", "// %s: later" % mark), mark)

    def test_sleep_in_test_is_found(self):
        for line in [
            "std::this_thread::sleep_for(1s);",
            "absl::SleepFor(absl::Seconds(1));",
            "usleep(10);",
            "  ::sleep(1);",
        ]:
            self.assert_found(self.added("rpc/channel_test.cc", line), "sleeps")
        self.assert_found({"rpc/x_test.sh": "wait_a_bit; sleep 1\n"}, "sleeps")

    def test_sleep_outside_tests_is_allowed(self):
        self.assertEqual(self.problems(self.added("rpc/channel.cc", "usleep(10);")), [])

    def test_disabled_test_is_found(self):
        self.assert_found(
            self.added("rpc/channel_test.cc", "TEST(Channel, DISABLED_Connects) {}"), "disabled"
        )

    def test_detached_thread_is_found(self):
        self.assert_found(self.added("rpc/channel.cc", "thread.detach();"), "detaches")

    def test_type_without_comment_is_found(self):
        for declaration in [
            "class Timer {};",
            "struct Timer final : Base {};",
            "template <typename T>\nclass Timer {};",
            "enum class Timer { kOn };",
            "class ABSL_LOCKABLE Timer {",
        ]:
            self.assert_found(
                self.added("base/clock.h", "\n" + declaration), "Timer has no comment"
            )

    def test_type_that_needs_no_comment_is_left_alone(self):
        for declaration in [
            "class Timer;",
            "// Rings.\nclass Timer {};",
            "// Rings.\ntemplate <typename T>\n  requires std::integral<T>\nclass Timer {};",
            "namespace clock_internal {\nclass Timer {};\n}  // namespace clock_internal",
        ]:
            self.assertEqual(self.problems(self.added("base/clock.h", "\n" + declaration)), [])

    def test_public_library_that_readme_does_not_name_is_found(self):
        public = {
            "base/BUILD": 'cc_library(\n    name = "clock",\n    srcs = ["clock.cc"], hdrs = ["clock.h"],\n'
            '    visibility = ["//visibility:public"],\n)\n',
            "README.md": "`@mi7//base:clock`\n",
        }
        self.assertEqual(self.problems(public), [])
        self.assert_found({**public, "README.md": "Tells the time.\n"}, "does not name @mi7//base:clock")
        self.assert_found(
            {**public, "README.md": "`@mi7//base:clock`, `@mi7//base:watch`\n"}, "which there is not"
        )
        private = public["base/BUILD"].replace("visibility:public", "rpc:__pkg__")
        self.assert_found({**public, "base/BUILD": private}, "which is not public")

    def test_line_that_a_workspace_needs_and_no_document_shows_is_found(self):
        foreign = {
            "tests/foreign_workspace/.bazelrc": "# Needed.\nbuild --c\n\n# For the test.\nbuild --d\n",
            "tests/foreign_workspace/WORKSPACE": 'workspace(name = "x")\nmi7_dependencies()\n',
            "README.md": "build --c\nmi7_dependencies()\n",
            "codegen/README.md": "build --c\n",
        }
        self.assertEqual(self.problems(foreign), [])
        for doc in ["README.md", "codegen/README.md"]:
            text = foreign[doc].replace("build --c", "build --old")
            self.assert_found({**foreign, doc: text}, "lacks a line")
        self.assert_found({**foreign, "README.md": "build --c\n"}, "mi7_dependencies()")

    def test_test_that_is_left_out_and_not_documented_is_found(self):
        build = 'cc_test(\n    name = "%s",\n    tags = ["long", "%s"],\n)\n' + SOUND["rpc/BUILD"]
        left_out = {
            "rpc/BUILD": build % ("race_test", "no_tsan"),
            "docs/TESTING.md": "| `no_tsan` | `//rpc:race_test` | it races |\n",
        }
        self.assertEqual(self.problems(left_out), [])
        for name, tag in [("other_test", "no_tsan"), ("race_test", "no_sanitizer")]:
            self.assert_found({**left_out, "rpc/BUILD": build % (name, tag)}, "has no line on")

    def test_ratchet_allows_what_it_says_and_no_more(self):
        ratchet = {"tests/tidy/ratchet.txt": "unfinished rpc/channel.cc 1\n"}
        one = self.added("rpc/channel.cc", "// TODO: one")
        two = self.added("rpc/channel.cc", "// TODO: one\n// TODO: two")
        self.assertEqual(self.problems({**ratchet, **one}), [])
        self.assertEqual(len(self.problems({**ratchet, **two})), 3)

    def test_ratchet_that_could_be_tighter_is_found(self):
        self.assert_found(
            {"tests/tidy/ratchet.txt": "unfinished rpc/channel.cc 1\n"}, "where it is 0 now"
        )


if __name__ == "__main__":
    unittest.main()
