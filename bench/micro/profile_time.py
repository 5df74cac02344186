#!/usr/bin/env python3
"""Says where the nanoseconds of a call go on either side, room by room, from samples of perf.

    bench/micro/profile_time.py PATH/TO/call_benchmark [BENCHMARK] [SECONDS]

As profile_call.py, but in time instead of instructions, so on a machine with nothing else to do and
a CPU for each side. A thread's time in a room is its share of the samples times the time of a call;
what is missing to that time it slept. Threads are named by what they ran most. Functions that were
made inline count as the one that they are in. Needs perf, and no hardware counters (cpu-clock).
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile

from profile_call import room_of, short

FREQUENCY = 9999
# Samples before this are the start of the program and the benchmark's search for its length.
SKIPPED_SHARE = 0.5

_SAMPLE = re.compile(r"^\s*(\d+)\s+([\d.]+):\s+(.*?)\s+\(([^)]*)\)\s*$")


def sample(program, benchmark, seconds):
    """Runs it; nanoseconds a call, and (thread, time in s, function, whether the kernel's) of each sample."""
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "perf.data")
        report = subprocess.run(
            ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", data, "--", program,
             "--benchmark_filter=^%s(/real_time)?$" % benchmark, "--benchmark_min_time=%s" % seconds,
             "--benchmark_format=json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, check=True).stdout
        measured = json.loads(report)["benchmarks"][0]
        text = subprocess.run(["perf", "script", "-i", data, "-F", "tid,time,ip,sym,dso"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True,
                              check=True).stdout
    per_second = measured.get("items_per_second")
    call_ns = 1e9 / per_second if per_second else measured["real_time"]
    samples = []
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match:
            function = re.sub(r"^[0-9a-f]+\s+", "", match.group(3))
            if "vdso" in match.group(4):
                function = "clock_gettime"  # the kernel's part of it in user space has no names
            samples.append((int(match.group(1)), float(match.group(2)), function,
                            "kernel" in match.group(4)))
    return call_ns, samples


def main():
    program = sys.argv[1]
    benchmark = sys.argv[2] if len(sys.argv) > 2 else "BM_ShmCall"
    seconds = sys.argv[3] if len(sys.argv) > 3 else "3"
    call_ns, samples = sample(program, benchmark, seconds)
    begin, end = samples[0][1], samples[-1][1]
    begin += (end - begin) * SKIPPED_SHARE
    share_ns = call_ns / ((end - begin) * FREQUENCY)
    threads = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
    for thread, at, function, kernel in samples:
        if at >= begin:
            room = "kernel" if kernel else room_of(function)
            threads[thread][room][function] += 1
    print("%s: %.0f ns a call" % (benchmark, call_ns))
    for thread, rooms in sorted(threads.items()):
        busy_ns = sum(sum(found.values()) for found in rooms.values()) * share_ns
        if busy_ns < call_ns / 50:
            continue
        print("thread %d: %.0f ns" % (thread, busy_ns))
        for room, found in sorted(rooms.items(), key=lambda item: -sum(item[1].values())):
            print("%7.0f  %s" % (sum(found.values()) * share_ns, room))
            for function, count in found.most_common(4):
                if count * share_ns >= call_ns / 100:
                    print("           %5.0f  %s" % (count * share_ns, short(function)[:100]))


if __name__ == "__main__":
    main()
