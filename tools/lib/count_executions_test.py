#!/usr/bin/python3
"""Executions of fuzz targets are added up, and too few fail."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import count_executions  # noqa: E402


class CountExecutionsTest(unittest.TestCase):
    """What comes of some logs."""

    def count(self, logs, least):
        """Exit status and output, with `logs` as {label: text}."""
        with tempfile.TemporaryDirectory() as folder:
            events = os.path.join(folder, "events")
            with open(events, "w", encoding="utf-8") as file:
                for number, (label, text) in enumerate(logs.items()):
                    path = os.path.join(folder, str(number))
                    with open(path, "w", encoding="utf-8") as log:
                        log.write(text)
                    output = {"name": "test.log", "uri": "file://" + path}
                    event = {
                        "id": {"testResult": {"label": label}},
                        "testResult": {"testActionOutput": [output]},
                    }
                    file.write(json.dumps(event) + "\n")
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                status = count_executions.main([events, str(least)])
            return status, said.getvalue()

    def test_sum_of_all_targets(self):
        logs = {
            "//a:a": "Done\nstat::number_of_executed_units: 400\nstat::x: 1\n",
            "//a:b": "stat::number_of_executed_units:      600\n",
            "//tools/fuzz:rule_fuzz_test": "stat::number_of_executed_units: 9999\n",
        }
        status, said = self.count(logs, 1000)
        self.assertEqual(status, 0, said)
        self.assertIn("RELIABILITY: 1000 executions of fuzz targets: //a:a 400, //a:b 600", said)
        self.assertEqual(self.count(logs, 1001)[0], 1)

    def test_target_that_says_nothing_fails(self):
        logs = {"//a:a": "stat::number_of_executed_units: 400\n", "//a:b": "all is well\n"}
        status, said = self.count(logs, 100)
        self.assertEqual(status, 1)
        self.assertIn("No number of executions in the log of: //a:b", said)

    def test_no_target_at_all_fails(self):
        self.assertEqual(self.count({}, 1)[0], 1)


if __name__ == "__main__":
    unittest.main()
