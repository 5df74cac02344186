#!/usr/bin/env python3
"""Adds up how often the fuzz targets of a `bazel test` run were executed.

    count_executions.py FILE LEAST

FILE is what --build_event_json_file wrote. Prints a line RELIABILITY: with the sum and each target's part; exit
status 1 if the sum is below LEAST, or if a target says nothing. Targets of //tools/fuzz, which prove the
rule and not mi7, do not count.
"""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import count_results  # noqa: E402

_EXECUTED = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)


def executions(logs):
    """{label: executions, 0 where the log does not say} of the (label, path) in `logs`."""
    counts = {}
    for label, path in logs:
        if label.startswith("//tools/fuzz"):
            continue
        try:
            with open(path, encoding="utf-8", errors="replace") as log:
                found = _EXECUTED.findall(log.read())
        except OSError:
            found = []
        counts[label] = sum(map(int, found))
    return counts


def main(arguments):
    path, least = arguments
    with open(path, encoding="utf-8") as file:
        counts = executions(count_results.read(file).logs)
    total = sum(counts.values())
    parts = ", ".join("%s %d" % part for part in sorted(counts.items()))
    print("RELIABILITY: %d executions of fuzz targets: %s" % (total, parts))
    silent = [label for label, count in counts.items() if count == 0]
    if silent:
        print("No number of executions in the log of: " + ", ".join(silent))
    if total < int(least):
        print("That is less than the least that is expected, " + least)
    return 1 if silent or total < int(least) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
