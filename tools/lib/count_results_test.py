#!/usr/bin/python3
"""Results are counted from the events that Bazel writes, and nothing that failed is overlooked."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import count_results  # noqa: E402


def configured(label, size="SMALL"):
    """The event of a target that was found; a test has a size."""
    body = {"targetKind": "a rule"}
    if size:
        body["testSize"] = size
    return {"id": {"targetConfigured": {"label": label}}, "configured": body}


def completed(label, **body):
    """The event of a target that is built, or is not."""
    return {"id": {"targetCompleted": {"label": label}}, **body}


def summary(label, status):
    """The event of a test that has ended."""
    return {"id": {"testSummary": {"label": label}}, "testSummary": {"overallStatus": status}}


def passing_test(label):
    """All events of a test that passes."""
    built = completed(label, completed={"success": True})
    return [configured(label), built, summary(label, "PASSED")]


class CountResultsTest(unittest.TestCase):
    """What some events add up to."""

    def count(self, events, exit_status):
        """Numbers of passed and failed, and the names of the failed."""
        results = count_results.read(json.dumps(event) for event in events)
        failures = results.failures(exit_status)
        return len(results.passed()), sorted(failures)

    def test_passed_tests_are_counted(self):
        events = passing_test("//a:a") + passing_test("//b:b")
        self.assertEqual(self.count(events, 0), (2, []))

    def test_test_that_did_not_pass_has_failed(self):
        for status in ["FAILED", "TIMEOUT", "FLAKY", "INCOMPLETE", "REMOTE_FAILURE", "NO_STATUS"]:
            events = passing_test("//a:a") + [configured("//b:b"), summary("//b:b", status)]
            self.assertEqual(self.count(events, 3), (1, ["//b:b"]))

    def test_test_that_was_not_run_has_failed(self):
        events = passing_test("//a:a") + [configured("//b:b")]
        self.assertEqual(self.count(events, 8), (1, ["//b:b", "bazel"]))

    def test_test_that_does_not_build_has_failed_once(self):
        events = [configured("//b:b"), completed("//b:b")] + passing_test("//a:a")
        self.assertEqual(self.count(events, 1), (1, ["//b:b"]))

    def test_library_that_does_not_build_has_failed(self):
        events = passing_test("//a:a") + [configured("//b:b", size=None), completed("//b:b")]
        self.assertEqual(self.count(events, 1), (1, ["//b:b"]))

    def test_target_that_cannot_be_analyzed_has_failed(self):
        aborted = completed("//b:b", aborted={"reason": "ANALYSIS_FAILURE"})
        self.assertEqual(self.count(passing_test("//a:a") + [aborted], 1), (1, ["//b:b"]))

    def test_pattern_that_does_not_load_has_failed(self):
        aborted = {
            "id": {"pattern": {"pattern": ["//nowhere:all"]}},
            "aborted": {"reason": "LOADING_FAILURE"},
        }
        self.assertEqual(self.count([aborted], 1), (0, ["//nowhere:all"]))

    def test_package_with_an_error_has_failed(self):
        text = "ERROR: package contains errors: c/d\nERROR: package contains errors: c/d: b"
        progress = {"id": {"progress": {}}, "progress": {"stderr": text}}
        self.assertEqual(self.count(passing_test("//a:a") + [progress], 1), (1, ["//c/d"]))

    def test_bazel_that_ends_for_another_reason_has_failed(self):
        for exit_status in [1, 2, 37, 137]:
            self.assertEqual(self.count(passing_test("//a:a"), exit_status), (1, ["bazel"]))
        self.assertEqual(self.count([], 2), (0, ["bazel"]))

    def test_no_tests_is_no_failure(self):
        self.assertEqual(self.count([configured("//a:a", size=None)], 4), (0, []))

    def test_notices_of_passing_tests_are_found(self):
        with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
            log.write("[ OK ]\nNOTICE: not run here\nNOTICE: not run here\nno NOTICE\n")
            log.write("RELIABILITY: 7 kills\n")
            log.flush()
            output = [{"name": "test.log", "uri": "file://" + log.name}]
            event = {"id": {"testResult": {"label": "//a:b"}},
                     "testResult": {"testActionOutput": output}}
            results = count_results.read([json.dumps(event)])
            self.assertEqual(count_results.said(results.logs, "NOTICE"), ["//a:b: NOTICE: not run here"])
        self.assertEqual(count_results.said(results.logs, "NOTICE"), [])

    def test_figures_are_added_to_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: os.path.join(folder, name) for name in ("log", "events", "figures")}
            output = [{"name": "test.log", "uri": "file://" + paths["log"]}]
            event = {"id": {"testResult": {"label": "//a:b"}},
                     "testResult": {"testActionOutput": output}}
            for name, text in [("log", "RELIABILITY: 7 kills\n"), ("events", json.dumps(event))]:
                with open(paths[name], "w") as file:
                    file.write(text)
            with contextlib.redirect_stdout(io.StringIO()):
                for _ in range(2):
                    count_results.main([paths["events"], "0", paths["figures"]])
            with open(paths["figures"]) as file:
                self.assertEqual(file.read(), 2 * "//a:b: 7 kills\n")

    def test_line_that_was_cut_off_is_skipped(self):
        results = count_results.read([json.dumps(event) for event in passing_test("//a:a")] + ['{"i'])
        self.assertEqual(results.passed(), ["//a:a"])


if __name__ == "__main__":
    unittest.main()
