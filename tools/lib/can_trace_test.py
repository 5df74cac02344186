#!/usr/bin/python3
"""What is found out of ptrace is what tools/test has found out, and leaves nobody behind."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import can_trace  # noqa: E402


class CanTraceTest(unittest.TestCase):
    """On this machine."""

    def test_it_is_what_tools_test_says(self):
        able = can_trace.can_trace()
        self.assertEqual(os.environ.get("MI7_REQUIRE_PTRACE", str(int(able))), str(int(able)))

    def test_no_child_is_left(self):
        can_trace.can_trace()
        with self.assertRaises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


if __name__ == "__main__":
    unittest.main()
