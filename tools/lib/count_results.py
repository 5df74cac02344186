#!/usr/bin/env python3
"""Counts what a `bazel test` run did, from the file that --build_event_json_file wrote.

    count_results.py FILE BAZEL_EXIT_STATUS [FIGURES]

Prints "PASSED FAILED" and below it one line for each failure: its label and why. A test passes when
Bazel reports it as passed (a flaky one that passed on a retry has not); whatever was asked for and
did not pass has failed: a test that failed, timed out, was not run or did not build, another target
that did not build, a package that did not load, and a run that ended without a word.

What passing tests have to say (lines of their logs that begin with NOTICE, such as why a part could
not be tested on this machine) goes to stderr, because Bazel shows the logs of failing tests only. How
much they have tried (lines that begin with RELIABILITY) is added to the file FIGURES.
"""

import json
import re
import sys
import urllib.parse

_BROKEN_PACKAGE = re.compile(r"package contains errors: ([^\s:]+)")


class Results:
    """What the events of one run add up to."""

    def __init__(self):
        self.tests = {}  # label of a test target -> its status, None until there is one
        self.broken = {}  # label or pattern that did not build or load -> why
        self.logs = []  # (label, path) of the tests' logs

    def add(self, event):
        """Takes one event of the build event protocol, as parsed JSON."""
        event_id = event.get("id", {})
        if "targetConfigured" in event_id and "configured" in event:
            if event["configured"].get("testSize", "UNKNOWN") != "UNKNOWN":
                self.tests.setdefault(event_id["targetConfigured"]["label"], None)
        elif "targetCompleted" in event_id:
            if not event.get("completed", {}).get("success", False):
                label = event_id["targetCompleted"]["label"]
                self.broken.setdefault(label, _reason(event, "did not build"))
        elif "testResult" in event_id and "testResult" in event:
            for output in event["testResult"].get("testActionOutput", []):
                uri = urllib.parse.urlparse(output.get("uri", ""))
                if output.get("name") == "test.log" and uri.scheme == "file":
                    label = event_id["testResult"]["label"]
                    self.logs.append((label, urllib.parse.unquote(uri.path)))
        elif "testSummary" in event_id and "testSummary" in event:
            label = event_id["testSummary"]["label"]
            self.tests[label] = event["testSummary"].get("overallStatus", "NO_STATUS")
        elif "pattern" in event_id and "aborted" in event:
            name = " ".join(event_id["pattern"]["pattern"])
            self.broken.setdefault(name, _reason(event, "did not load"))
        elif "progress" in event_id:
            # A BUILD file with an error below a "..." pattern has no event of its own.
            for package in _BROKEN_PACKAGE.findall(event.get("progress", {}).get("stderr", "")):
                self.broken.setdefault("//" + package, "has an error in its BUILD file")

    def passed(self):
        """Labels of the tests that passed."""
        return [
            label
            for label, status in self.tests.items()
            if status == "PASSED" and label not in self.broken
        ]

    def failures(self, exit_status):
        """Label or pattern of everything that did not pass -> why."""
        failed = dict(self.broken)
        for label, status in self.tests.items():
            if status != "PASSED":
                failed.setdefault(label, "was not run" if status is None else status.lower())
        # 1: something did not build; 3: a test failed; 4: there were no tests. With any other one, or
        # with one of these and nothing to show for it, the run did not get to its end.
        explained = (0, 1, 3, 4) if failed else (0, 4)
        if exit_status not in explained:
            failed["bazel"] = "ended with exit status %d" % exit_status
        return failed


def said(logs, beginning):
    """Lines "LABEL: BEGINNING..." of the logs, each once; a log that is gone has none."""
    found = {}
    for label, path in logs:
        try:
            with open(path, encoding="utf-8", errors="replace") as log:
                lines = [line.strip() for line in log if line.startswith(beginning)]
        except OSError:
            continue
        found.update(dict.fromkeys("%s: %s" % (label, line) for line in lines))
    return list(found)


def _reason(event, otherwise):
    reason = event.get("aborted", {}).get("reason", "")
    if reason in ("", "UNKNOWN"):
        return otherwise
    return otherwise + " (" + reason.lower() + ")"


def read(lines):
    """The Results of the events in `lines`, each line one JSON object; a cut-off line is skipped."""
    results = Results()
    for line in lines:
        try:
            results.add(json.loads(line))
        except json.JSONDecodeError:
            continue
    return results


def main(arguments):
    path, exit_status = arguments[:2]
    try:
        with open(path, encoding="utf-8") as file:
            results = read(file)
    except FileNotFoundError:
        results = Results()
    failures = results.failures(int(exit_status))
    print(len(results.passed()), len(failures))
    for label, why in sorted(failures.items()):
        print("%s: %s" % (label, why))
    for notice in said(results.logs, "NOTICE"):
        print(notice, file=sys.stderr)
    if len(arguments) > 2:
        with open(arguments[2], "a", encoding="utf-8") as file:
            for line in said(results.logs, "RELIABILITY: "):
                file.write(line.replace("RELIABILITY: ", "", 1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
