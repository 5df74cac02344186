#!/usr/bin/python3
"""Runs a micro-benchmark of two builds in turns, and says what one takes of the other.

    bench/micro/compare_builds.py OLD NEW BM_InprocCall BM_ShmCall --rounds=15
    bench/micro/compare_builds.py OLD NEW BM_TcpPipelined --min_time=0.5

OLD and NEW are two builds of one program of Google Benchmark, such as bench/micro:call_benchmark with
`-c opt`, of two trees. A round runs both, one right after the other, and gives a ratio; who is first
changes with each. Printed are the medians, and the median of the ratios with its quartiles. On a quiet
machine: what else runs does not hit both alike.
"""

import argparse
import json
import statistics
import subprocess
import sys

_NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("old", help="a program")
    parser.add_argument("new", help="the same program, of another tree")
    parser.add_argument("benchmarks", nargs="+", help="names of benchmarks in both")
    parser.add_argument("--rounds", type=int, default=9, help="at least 2")
    parser.add_argument("--min_time", default="0.2", help="seconds that one run measures for")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds=%d: quartiles take two rounds at least" % options.rounds)
    for benchmark in options.benchmarks:
        times = {options.old: [], options.new: []}
        ratios = []
        for number in range(options.rounds):
            programs = [options.old, options.new]
            for program in programs if number % 2 == 0 else reversed(programs):
                times[program].append(_time_ns(program, benchmark, options.min_time))
            ratios.append(times[options.new][-1] / times[options.old][-1])
        low, _, high = statistics.quantiles(ratios, n=4)
        print(
            "%-28s %10.1f ns -> %10.1f ns  %.3fx (%.3f to %.3f, %d rounds)"
            % (
                benchmark,
                statistics.median(times[options.old]),
                statistics.median(times[options.new]),
                statistics.median(ratios),
                low,
                high,
                options.rounds,
            ),
            flush=True,
        )
    return 0


def _time_ns(program, benchmark, min_time):
    """Wall-clock nanoseconds of an iteration, in one run."""
    run = subprocess.run(
        [
            program,
            "--benchmark_filter=^%s$" % benchmark,
            "--benchmark_min_time=%s" % min_time,
            "--benchmark_format=json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        figure = json.loads(run.stdout)["benchmarks"][0]
        return figure["real_time"] * _NANOSECONDS[figure["time_unit"]]
    except (ValueError, LookupError):
        sys.exit("%s has no result for %s: %s" % (program, benchmark, run.stderr.strip()[-500:]))


if __name__ == "__main__":
    sys.exit(main())
