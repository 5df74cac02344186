#!/usr/bin/env python3
"""Says how long the threads of a row of the bench wait for a CPU, beside how long they run.

    bench/micro/cpu_waits.py ROW PLACEMENT [OPTION OF THE BENCH ...]

    bench/micro/cpu_waits.py L9.processes unpinned --rounds=9 --measure=90ms
    bench/micro/cpu_waits.py S4.4x1 unpinned

Reads /proc/PID/task/TID/schedstat and status of all that the bench starts, every 10 ms, and adds up by the side and
the name of a thread. A turn is what a thread has on a CPU until another one gets it, and "forced" the turns that ended
without its asking for sleep. "waits" is the time in which it could have run and had no CPU; what is missing to its
lifetime is sleep. "least" and "most" are what one thread ran. MI7_BENCH names the bench; by default it is
bazel-bin/bench/harness/bench.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
import time

EVERY_S = 0.01


class Thread:
    """The last that was seen of one."""

    def __init__(self, role, name, process):
        self.role = role
        self.name = name
        self.process = process
        self.first_s = time.monotonic()
        self.last_s = self.first_s
        self.ran_ns = self.waited_ns = self.turns = self.forced = self.longest_wait_ns = 0

    def update(self, schedstat, status):
        ran_ns, waited_ns, turns = (int(word) for word in schedstat.split())
        if turns > self.turns:
            # Of the turns since the last look, one waited for at least their mean.
            self.longest_wait_ns = max(self.longest_wait_ns,
                                       (waited_ns - self.waited_ns) / (turns - self.turns))
        self.ran_ns, self.waited_ns, self.turns = ran_ns, waited_ns, turns
        self.last_s = time.monotonic()
        for line in status.splitlines():
            if line.startswith("nonvoluntary_ctxt_switches"):
                self.forced = int(line.split()[1])


def read(path):
    with open(path) as file:
        return file.read()


def children(pid):
    found = []
    for task in os.listdir("/proc/%d/task" % pid):
        found += [int(word) for word in read("/proc/%d/task/%s/children" % (pid, task)).split()]
    return found


def look(bench, threads):
    for pid in children(bench):
        try:
            words = read("/proc/%d/cmdline" % pid).split("\0")
            if len(words) < 3 or words[1] not in ("serve", "join", "call"):
                continue
            role = "client" if words[1] == "call" else "server"
            subject = os.path.basename(words[0])
            for task in os.listdir("/proc/%d/task" % pid):
                folder = "/proc/%d/task/%s/" % (pid, task)
                key = (pid, task)
                if key not in threads:
                    threads[key] = Thread("%s %s" % (subject, role), "", pid)
                threads[key].name = read(folder + "comm").strip()
                threads[key].update(read(folder + "schedstat"), read(folder + "status"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    row, placement = sys.argv[1:3]
    bench = os.environ.get("MI7_BENCH", "bazel-bin/bench/harness/bench")
    threads = {}
    with tempfile.TemporaryDirectory() as folder:
        own = os.path.join(folder, "figures.json")
        process = subprocess.Popen(
            [bench, "--only=%s$" % row, "--placements=" + placement, "--json=" + own] + sys.argv[3:],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            try:
                look(process.pid, threads)
            except (FileNotFoundError, ProcessLookupError):
                pass
            time.sleep(EVERY_S)
        with open(own) as file:
            figure = json.loads(file.readline())
    print("%s, %s: %s: %.4g %s, ratio %s" % (row, placement, figure["what"], figure["value"], figure["unit"],
                                             figure["ratio"]))
    groups = collections.defaultdict(list)
    for thread in threads.values():
        if thread.turns > 0:
            groups[(thread.role, thread.name)].append(thread)
    print("%-18s %-13s %7s %8s %8s %8s %8s %8s %8s %8s %8s %7s" % (
        "process", "thread", "threads", "runs ms", "least", "most", "waits ms", "share", "turn us", "wait us", "longest",
        "forced"))
    for (role, name), group in sorted(groups.items()):
        ran = sum(t.ran_ns for t in group)
        waited = sum(t.waited_ns for t in group)
        turns = sum(t.turns for t in group)
        print("%-18s %-13s %7d %8.1f %8.1f %8.1f %8.1f %7.0f%% %8.1f %8.1f %8.0f %6.0f%%" % (
            role, name, len(group), ran / 1e6, min(t.ran_ns for t in group) / 1e6,
            max(t.ran_ns for t in group) / 1e6, waited / 1e6, 100 * waited / max(1, ran + waited), ran / turns / 1e3,
            waited / turns / 1e3, max(t.longest_wait_ns for t in group) / 1e3,
            100 * sum(t.forced for t in group) / turns))


if __name__ == "__main__":
    main()
