#!/usr/bin/env python3
"""Says where the nanoseconds of a row of the bench go, on both sides at the same time, room by room.

    bench/micro/profile_sides.py [OPTION ...] ROW PLACEMENT

    bench/micro/profile_sides.py --figures=today.json L1 different
    bench/micro/profile_sides.py --programs=DIR T3 one
    bench/micro/profile_sides.py --figures=today.json raw.tcp.blocking one
    bench/micro/profile_sides.py --program=zeromq zeromq.tcp.1MiB unpinned

    --bench=PROGRAM     the bench; default: bazel-bin/bench/harness/bench
    --programs=DIR      the subjects, as for the bench
    --program=NAME      the subject that the row has to be a figure of; default: whichever it is. A limit or a peer is
                        profiled by a row of its own, such as raw.tcp.blocking
    --figures=FILE      what --json of an earlier run wrote: what the nanoseconds are to add up to.
                        Default: the figures of the profiled run itself
    --cpu               adds up to the CPU time of a call on each side, also of what is done between two timed calls
    --rounds=N          default: 9
    --measure=TIME      of a round; default: 1s
    --top=N             functions of a room; default: 4

Client and server are sampled in the same run, all their threads, with who called them. A side that is on its CPU for
all of the row's time is scaled to that; any other has its CPU time of a call, and the rest is sleep, or waiting for a
CPU. So each side's rooms add up to the row's figure. Waiting (polling for a message that is not there yet, and asking
the system meanwhile whether somebody else wants the CPU) is a room of its own. A peer's library is one, too, with its
functions below it; what it does in the kernel and in the C library stands with what the others do there.

Functions that were made inline are told apart where the subjects were built with line tables, which changes
nothing else of them:

    bazel build -c opt --per_file_copt='^(//)?(base|transport|channels|rpc|bench)[/:].*[.]cc$@-g1' //bench

Needs perf, llvm-symbolizer for those, and a machine with nothing else to do; no hardware counters.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

from profile_call import room_of, short

# Rare, for the reason that profile_time.py gives.
FREQUENCY = 997

KERNEL = "kernel"
WAITING = "waiting: polling, nothing is there"
# What a thread does while nothing is there for it. The cell that is asked for is the other side's to write, so the
# time in which its line comes is in here.
_WAITS = re.compile(
    r"RingReader::Ready|CpuPause|NeighbourGuess|SpinBudget|ShmConnection::(Await|Drive|Poll)\b|KeptSources::Poll|"
    r"EventLoop::Impl::(Spin|PollNowAndThen|Poll|HasWork|NextDeadline|Wait)|SpinKept|"
    r"::AwaitTurns|StreamConnection::(Await|Drive|Poll)\b|"
    # of the limits: raw_shm, raw_socket
    r"bench::\(anonymous namespace\)::(End::(Arrived|Receive)|WaitFor)\b"
)
# Of a peer, whose own function says more than the C library's below it; by the file it is in.
_LIBRARIES = [
    ("ZeroMQ", re.compile(r"^libzmq|^libsodium|^libpgm|^libnorm")),
    ("nng", re.compile(r"^libnng")),
    ("Thrift", re.compile(r"^libthrift")),
    ("gRPC", re.compile(r"^libgrpc|^libgpr|^libprotobuf|^libupb|^libaddress_sorting|^libcares|^libre2")),
    ("iceoryx", re.compile(r"^libiceoryx")),
]
# What is made inline of a library that is nothing but headers, or whose headers are much of it.
_HEADERS = [
    ("Boost", re.compile(r"^boost::")),
    ("ZeroMQ", re.compile(r"^zmq::")),
    ("Thrift", re.compile(r"^apache::thrift")),
    ("gRPC", re.compile(r"^grpc::|^google::protobuf")),
    ("iceoryx", re.compile(r"^iox::")),
]
LIBRARY = "a peer's library: "
# Says nothing of what it is done for: who called it does.
_NEUTRAL = re.compile(
    r"^std::|^__gnu_cxx|__atomic|MonotonicNanos|clock_gettime|^Deadline::|::Deadline::|Completion::done|"
    r"DrivingToken::wanted|sched_yield|getrusage|^\[unknown\]"
)
# The system call, or what else the kernel was entered for; the first that is found says the room.
_KERNEL = [
    (r"execve|do_exit|exit_mmap|sys_exit", "start-up of the program"),
    (r"sys_sched_yield|sys_getrusage", WAITING),
    (r"sys_(sendto|sendmsg|write|writev)\b", "kernel: send"),
    (r"sys_(recvfrom|recvmsg|read|readv)\b", "kernel: receive, also in vain"),
    (r"sys_epoll|sys_p?poll", "kernel: epoll"),
    (r"sys_futex", "kernel: futex"),
    (r"page_fault", "kernel: page faults"),
    (r"sys_(madvise|mmap|munmap|fallocate)", "kernel: memory"),
    (r"finish_task_switch|schedule", "kernel: switches to others"),
    (r"sysvec|irq", "kernel: interrupts"),
]
_HEAD = re.compile(r"^(\S.*?)\s+(\d+)/(\d+)\s*$")
_NAMED = re.compile(r"PERF_RECORD_COMM(?: exec)?: (.*):(\d+)/\d+$")
_FRAME = re.compile(r"^\s+([0-9a-f]+)\s+(.*?)\s+\(([^)]*)\)\s*$")


class Symbols:
    """The functions at a place in a program, inline ones first. Places are as perf prints them in a chain: offsets."""

    def __init__(self, path):
        self._path = path
        self._known = {}
        text = subprocess.run(["readelf", "-lW", path], stdout=subprocess.PIPE, universal_newlines=True).stdout
        self._loaded = []  # (offset in the file, its end, what an address is more)
        for line in text.splitlines():
            words = line.split()
            if words and words[0] == "LOAD":
                offset, address, size = int(words[1], 16), int(words[2], 16), int(words[4], 16)
                self._loaded.append((offset, offset + size, address - offset))

    def _address(self, place):
        return next((place + more for low, high, more in self._loaded if low <= place < high), None)

    def resolve(self, places):
        """Looks up all of them at once."""
        known = {place: self._address(place) for place in places}
        ordered = sorted(place for place, address in known.items() if address is not None)
        out = subprocess.run(
            ["llvm-symbolizer", "--obj=" + self._path, "--inlines", "--functions=linkage", "--demangle"],
            input="\n".join(hex(known[place]) for place in ordered), stdout=subprocess.PIPE,
            universal_newlines=True, check=True).stdout
        for place, block in zip(ordered, out.split("\n\n")):
            self._known[place] = [line for line in block.strip().splitlines()[0::2] if line != "??"]

    def at(self, place):
        return self._known.get(place, [])


def record(command):
    """Runs it under perf. Its samples, each (pid, thread's name, [(ip, function, file), ...] from the innermost), and
    {pid: the names that its threads have had}."""
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "perf.data")
        subprocess.run(
            ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "--call-graph=fp", "-o", data, "--"]
            + command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        text = subprocess.run(
            ["perf", "script", "--show-task-events", "-i", data, "-F", "comm,pid,tid,ip,sym,dso"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, check=True).stdout
    samples = []
    names = collections.defaultdict(set)
    for line in text.splitlines():
        named = _NAMED.search(line)
        if named:
            names[int(named.group(2))].add(named.group(1))
            continue
        frame = _FRAME.match(line)
        if frame and samples:
            ip, function, path = frame.groups()
            samples[-1][2].append((int(ip, 16), function, path))
            continue
        head = _HEAD.match(line)
        if head:
            samples.append((int(head.group(2)), head.group(1), []))
    return samples, names


def expand(sample, symbols, program):
    """The chain of a sample, innermost first, with the inline functions of `program`; (function, place).

    A place is KERNEL, what peer's library it is, or None."""
    chain = []
    for depth, (ip, function, path) in enumerate(sample[2]):
        place = KERNEL if "kernel" in path else library_of(path, function)
        inline = []
        if os.path.basename(path) == program:
            # What called is behind the call: the instruction before belongs to it.
            inline = symbols.at(ip - (1 if depth > 0 else 0))
        if "vdso" in path:
            function = "clock_gettime"
        if "ld-linux" in path:
            function = "dl-" + function
        chain += [(name, library_of(path, name)) for name in inline] if inline else [(function, place)]
    return chain


def library_of(path, function):
    file = os.path.basename(path)
    for name, pattern in _LIBRARIES:
        if pattern.search(file):
            return name
    return next((name for name, pattern in _HEADERS if pattern.search(function)), None)


def classify(chain):
    """(room, function to show) of a chain."""
    if chain[0][1] == KERNEL:
        entry = [name for name, place in chain if place == KERNEL]
        caller = next((short(name) for name, place in chain if place != KERNEL and not _NEUTRAL.search(name)), "")
        for pattern, room in _KERNEL:
            if any(re.search(pattern, name) for name in entry):
                return room, "%s <- %s" % (entry[0], caller)
        return "kernel: other", "%s <- %s" % (entry[0], caller)
    for name, place in chain:
        if place not in (None, KERNEL):
            return LIBRARY + place, short(name) or "a function without a name"
        name = re.sub(r"(?<=\w)\(.*", "", name)  # what a function takes is not what it does
        if _NEUTRAL.search(name):
            continue
        if _WAITS.search(name):
            return WAITING, short(name)
        room = room_of(name)
        if room == "polling while nothing is there":
            return WAITING, short(name)
        if room.startswith("C library: memory"):
            caller = next((short(n) for n, _ in chain[1:] if room_of(n) != room and not _NEUTRAL.search(n)), "")
            what = "clearing" if "memset" in name else "copying" if re.search("mem(cpy|move)", name) else "allocating"
            return "memory: " + what, "%s <- %s" % (short(name), caller)
        return room, short(name)
    return "other", short(chain[0][0])


def figure_of(path, row, placement):
    with open(path) as file:
        for line in file:
            figure = json.loads(line)
            if figure["id"] == row and figure["placement"] == placement:
                return figure
    sys.exit("%s has no row %s at %s" % (path, row, placement))


# What the bench's subjects call themselves when they serve (bench/harness/subject_main.cc).
_SERVER = "bench-server"
_NAME_MAX = 15  # of a thread


def sides_of(names, program):
    """{pid: "client" or "server"} of the processes of `program`; `names` as record() gives them."""
    return {pid: "server" if _SERVER in each else "client"
            for pid, each in names.items() if program[:_NAME_MAX] in each}


class Profile:
    """A row at a placement, run under perf: samples by side, room and function, and how they are to be scaled."""

    SIDES = ("client", "server")

    def __init__(self, row, placement, bench, programs=None, figures=None, rounds=9, measure="1s", program=None):
        """Arguments as the options of the same names."""
        with tempfile.TemporaryDirectory() as folder:
            own = os.path.join(folder, "figures.json")
            command = [bench, "--only=%s$" % row, "--placements=" + placement, "--rounds=%d" % rounds,
                       "--measure=" + measure, "--json=" + own]
            if programs:
                command.append("--programs=" + programs)
            samples, names = record(command)
            self.profiled = figure_of(own, row, placement)
        program = program or self.profiled["subject"]
        if program != self.profiled["subject"]:
            sys.exit("%s is a figure of %s; %s shows what it is held against" %
                     (row, self.profiled["subject"], self.profiled["limit_row"] or "a row of its own"))
        self.figure = figure_of(figures, row, placement) if figures else self.profiled
        sides = sides_of(names, program)
        samples = [sample for sample in samples if sample[0] in sides and sample[2]]
        own = {path for _, _, frames in samples for _, _, path in frames if os.path.basename(path) == program}
        if len(own) != 1:
            sys.exit("no samples of %s in %s at %s" % (program, row, placement))
        symbols = Symbols(own.pop())
        symbols.resolve({ip - (1 if depth > 0 else 0) for _, _, frames in samples
                         for depth, (ip, _, path) in enumerate(frames) if os.path.basename(path) == program})
        self.counts = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
        self.threads = collections.defaultdict(collections.Counter)
        for sample in samples:
            room, function = classify(expand(sample, symbols, program))
            if room == "start-up of the program":
                continue
            side = sides[sample[0]]
            self.counts[side][room][function] += 1
            self.threads[side][sample[1]] += 1

    def cpu_ns(self, side):
        return self.figure[side + "_cpu_ns"]

    def scale(self, side, in_all_ns):
        """(nanoseconds of a sample, nanoseconds without any) when the side's time is to be so much."""
        total = sum(sum(found.values()) for found in self.counts[side].values())
        cpu_ns = self.cpu_ns(side)
        scaled_to = in_all_ns if cpu_ns >= 0.95 * in_all_ns else cpu_ns
        return scaled_to / max(total, 1), in_all_ns - scaled_to


def show(profile, side, in_all_ns, top):
    """Adds up to in_all_ns."""
    counts, threads = profile.counts[side], profile.threads[side]
    total = sum(sum(found.values()) for found in counts.values())
    if total == 0:
        print("%s: no samples" % side)
        return
    each_ns, rest_ns = profile.scale(side, in_all_ns)
    names = ", ".join("%s %.0f%%" % (name, 100 * count / total) for name, count in threads.most_common(4)
                      if count * 100 >= total)
    print("\n%s: %d samples (%s), %.0f ns of CPU time a call" % (side, total, names, profile.cpu_ns(side)))
    if rest_ns > 0:
        print("%9.0f  waiting: asleep, or for a CPU" % rest_ns)
    for room, found in sorted(counts.items(), key=lambda item: -sum(item[1].values())):
        print("%9.0f  %s" % (sum(found.values()) * each_ns, room))
        for function, count in found.most_common(top):
            if count * 100 >= total:
                print("             %7.0f  %s" % (count * each_ns, function[:110]))
    print("%9.0f  in all" % in_all_ns)


def show_all(profile, cpu, top):
    """Both sides; `cpu`: as the option --cpu."""
    figure, profiled = profile.figure, profile.profiled
    print("%s, %s: %s; %.0f ns a call, %.0f while it was profiled" %
          (figure["id"], figure["placement"], figure["what"], figure["value"], profiled["value"]))
    for side in Profile.SIDES:
        show(profile, side, profile.cpu_ns(side) if cpu else figure["value"], top)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--bench", default="bazel-bin/bench/harness/bench")
    parser.add_argument("--programs")
    parser.add_argument("--figures")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--measure", default="1s")
    parser.add_argument("--program")
    parser.add_argument("--top", type=int, default=4)
    parser.add_argument("row")
    parser.add_argument("placement")
    options = parser.parse_args()
    profile = Profile(options.row, options.placement, options.bench, options.programs, options.figures,
                      options.rounds, options.measure, options.program)
    show_all(profile, options.cpu, options.top)


if __name__ == "__main__":
    main()
