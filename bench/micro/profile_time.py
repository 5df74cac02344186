#!/usr/bin/env python3
"""Says where the nanoseconds of a call go on either side, room by room, from samples of perf.

    bench/micro/profile_time.py CALL_NS [--name=THREAD ...] PROGRAM [ARGUMENT ...]

    B=bazel-bin/bench/harness/bench
    bench/micro/profile_time.py 850 --name=mi7 --name=mi7-server-0 \\
        $B --only=L1 --placements=different --rounds=9 --measure=1s

Samples all that PROGRAM starts and adds up by the names of threads: those given, or all. CALL_NS is
what a call takes a thread: its latency where the thread polls all the time, its CPU time where it
sleeps. A room's nanoseconds are its share of the thread's samples times that. As profile_call.py,
but in time instead of instructions, so on a machine with nothing else to do. Functions that were made
inline count as the one that they are in. Needs perf, and no hardware counters.
"""

import collections
import os
import re
import subprocess
import sys
import tempfile

from profile_call import room_of, short

# Rare: where each sample costs tens of microseconds, as on some virtual machines, more of them would show two threads
# that wait for each other.
FREQUENCY = 997
_SAMPLE = re.compile(r"^\s*(.*?)\s+(\d+)\s+([\d.]+):\s+[0-9a-f]+\s+(.*?)\s+\(([^)]*)\)\s*$")


def sample(command):
    """Runs it; (thread's name, function, room) of each sample."""
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "perf.data")
        subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", data, "--"]
                       + command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        text = subprocess.run(["perf", "script", "-i", data, "-F", "comm,tid,time,ip,sym,dso"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True,
                              check=True).stdout
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if not match:
            continue
        thread, _, _, function, place = match.groups()
        if "vdso" in place:
            function = "clock_gettime"  # the kernel's part of it in user space has no names
        yield thread, function, "kernel" if "kernel" in place else room_of(function)


def main():
    call_ns = float(sys.argv[1])
    command = sys.argv[2:]
    names = []
    while command[0].startswith("--name="):
        names.append(command.pop(0)[len("--name="):])
    threads = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
    for thread, function, room in sample(command):
        if room != "start-up of the program" and (not names or thread in names):
            threads[thread][room][function] += 1
    for thread, rooms in sorted(threads.items()):
        total = sum(sum(found.values()) for found in rooms.values())
        print("%s: %d samples, %.0f ns a call" % (thread, total, call_ns))
        for room, found in sorted(rooms.items(), key=lambda item: -sum(item[1].values())):
            print("%7.0f  %s" % (sum(found.values()) * call_ns / total, room))
            for function, count in found.most_common(5):
                if count * 100 >= total:
                    print("           %5.0f  %s" % (count * call_ns / total, short(function)[:100]))


if __name__ == "__main__":
    main()
