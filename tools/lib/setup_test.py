#!/usr/bin/python3
"""tools/setup installs what is missing and nothing else, and says how where it cannot.

The commands that it calls are stand-ins, which write down how they were called.
"""

import os
import subprocess
import tempfile
import unittest

SETUP = os.path.abspath("tools/setup")


def needed():
    """The packages of tools/packages.txt."""
    with open("tools/packages.txt", encoding="utf-8") as file:
        return [line.split()[0] for line in file if line.strip() and not line.startswith("#")]


class SetupTest(unittest.TestCase):
    """Runs tools/setup on a machine where some packages are missing."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.calls = os.path.join(self.folder, "calls")
        for tool in ["dirname", "sed", "grep", "env", "cat"]:
            os.symlink("/usr/bin/" + tool, os.path.join(self.folder, tool))
        self.command("apt-get", 'echo "apt-get $*" >>%s' % self.calls)
        self.user(0)
        self.installed(needed())

    def command(self, name, script):
        """Puts a command into the PATH of tools/setup."""
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n%s\n" % script)
        os.chmod(path, 0o755)

    def user(self, uid):
        """Says who runs tools/setup."""
        self.command("id", "echo %d" % uid)

    def installed(self, packages):
        """Says what dpkg knows. Others were removed, which leaves an entry, or never there."""
        lines = ["installed " + name for name in packages] + ["config-files git"]
        self.command("dpkg-query", "cat <<EOF\n%s\nEOF\nexit 1" % "\n".join(lines))

    def run_setup(self, *arguments):
        """Runs it; returns its exit status, all it said, and the calls of apt-get."""
        done = subprocess.run(
            ["/bin/sh", SETUP, *arguments],
            env={"PATH": self.folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        calls = ""
        if os.path.exists(self.calls):
            with open(self.calls, encoding="utf-8") as file:
                calls = file.read()
        return done.returncode, done.stdout, calls

    def without(self, *missing):
        """All needed packages but these."""
        return [name for name in needed() if name not in missing]

    def test_nothing_is_called_when_nothing_is_missing(self):
        self.assertEqual(
            self.run_setup(), (0, "All packages that mi7 needs are installed.\n", "")
        )
        self.assertEqual(self.run_setup("--quiet"), (0, "", ""))

    def test_root_installs_what_is_missing_and_says_why(self):
        self.installed(self.without("libuv1-dev", "git"))
        status, said, calls = self.run_setup()
        self.assertEqual(status, 0, said)
        self.assertRegex(said, r"libuv1-dev +the event loop")
        self.assertRegex(calls, r"update\napt-get .*install .* libuv1-dev git\n$")

    def test_name_that_begins_like_an_installed_one_is_missing(self):
        self.installed(self.without("clang"))
        self.assertRegex(self.run_setup()[2], r"install .* clang\n$")

    def test_user_installs_through_sudo(self):
        self.user(1000)
        self.command("sudo", 'echo sudo >>%s; [ "$1" = -n ] || exec "$@"' % self.calls)
        self.installed(self.without("capnproto"))
        status, said, calls = self.run_setup()
        self.assertEqual(status, 0, said)
        self.assertRegex(calls, r"sudo\napt-get .*update\nsudo\napt-get .*install .* capnproto\n$")

    def test_user_without_sudo_is_told_the_command(self):
        self.user(1000)
        self.installed(self.without("capnproto", "g++"))
        for sudo in [None, "exit 1"]:
            if sudo:
                self.command("sudo", sudo)
            status, said, calls = self.run_setup()
            self.assertEqual(status, 1)
            self.assertIn("needs root", said)
            self.assertRegex(said, r"apt-get update && apt-get install .* g\+\+ capnproto\n")
            self.assertEqual(calls, "")

    def test_list_installs_nothing(self):
        self.installed(self.without("capnproto"))
        status, said, calls = self.run_setup("--list")
        self.assertEqual((status, calls), (1, ""))
        self.assertIn("capnproto", said)

    def test_failure_of_apt_get_is_a_failure(self):
        self.installed(self.without("capnproto"))
        self.command("apt-get", "exit 100")
        status, said, _ = self.run_setup()
        self.assertEqual(status, 1)
        self.assertIn("could not install: capnproto", said)

    def test_other_systems_are_told_what_is_needed(self):
        os.remove(os.path.join(self.folder, "apt-get"))
        status, said, _ = self.run_setup()
        self.assertEqual(status, 1)
        self.assertIn("Debian 12", said)

    def test_unknown_option_is_refused(self):
        status, said, _ = self.run_setup("--now")
        self.assertEqual(status, 1)
        self.assertIn("unknown option '--now'", said)


if __name__ == "__main__":
    unittest.main()
