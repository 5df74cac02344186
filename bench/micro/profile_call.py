#!/usr/bin/env python3
"""Says where the instructions of a call go, room by room, from a run under callgrind.

    bench/micro/profile_call.py PATH/TO/call_benchmark [BENCHMARK] [SECONDS]

PATH: as `bazel build -c opt //bench/micro:call_benchmark` built it. BENCHMARK: one of its
benchmarks, BM_InprocCall by default. Counts do not depend on how busy the machine is. Both sides of
a call are in one process; what a thread does while nothing is there for it (polling) is counted for
itself, because under valgrind one of two threads always waits for the other.
"""

import collections
import os
import re
import subprocess
import sys
import tempfile

# The first pattern that is found in a function's name says its room.
ROOMS = [
    ("start-up of the program", r"elf/|dl-|libc-start|libbenchmark|ld-linux|std::(ios_base|locale)"),
    ("polling while nothing is there", r"::Poll\(|SpinBudget|RingReader::Ready|sched_yield|EventLoop::"),
    ("slot pipe", r"[Ss]lot_?[Pp]ipe"),
    ("transport: shm", r"transport::shm"),
    ("transport: inproc", r"transport::inproc"),
    ("transport: sockets", r"transport::(stream|tcp|unix)|FrameAssembler|StreamConnection"),
    ("transport: driver, completion, loop", r"transport::(Driver|Completion|EventLoop)|Doorbell"),
    ("messages: memory, building, checking", r"transport::|Buffer|HeapMessage"),
    ("rpc, caller: channel, call, table of calls", r"mi7::(Channel|CallSide|ClientCall|PendingCall|Request|Response|Stub)"),
    ("rpc, callee: dispatch, answer", r"mi7::(AnswerSide|ServerCall|ServerContext|Dispatcher|Reply|Service)"),
    ("rpc, both: session, reading", r"mi7::(Session|Body)"),
    ("generated code", r"mi7::bench::(Echo|Sink)(Stub|Service|::)|capnp::schemas"),
    ("the bench", r"mi7::bench"),
    ("rpc, other", r"mi7::"),
    ("Cap'n Proto", r"capnp|kj::"),
    ("C library: memory and copying", r"mem(cpy|set|move|cmp)|malloc|free|operator (new|delete)|libstdc"),
    ("C library: locks, clock, system calls", r"pthread|futex|mutex|clock|syscall|epoll|recv|send"),
]

_LINE = re.compile(r"^\s*([\d,]+) \([ \d.]+%\)\s+(.*)$")


def room_of(function):
    for room, pattern in ROOMS:
        if re.search(pattern, function):
            return room
    return "other"


def calls_in(path):
    """How often the benchmark's handler ran: all runs of the benchmark together."""
    names = {}
    calls = 0
    callee = ""
    with open(path) as file:
        for line in file:
            match = re.match(r"c?fn=\((\d+)\)(?: (.*))?", line)
            if match and match.group(2):
                names[match.group(1)] = match.group(2)
            if line.startswith("cfn=") and match:
                callee = names.get(match.group(1), "")
            elif line.startswith("calls=") and "EchoImpl::Echo(" in callee:
                calls += int(line[len("calls="):].split()[0])
    return calls


def profile(program, benchmark, seconds):
    """Runs it; the number of calls and (instructions, function) of each function."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "callgrind.out")
        subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + out, "--fair-sched=yes", program,
             "--benchmark_filter=^%s$" % benchmark, "--benchmark_min_time=%s" % seconds],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        text = subprocess.run(
            ["callgrind_annotate", "--inclusive=no", "--threshold=100", "--auto=no", out],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, check=True).stdout
        calls = calls_in(out)
    functions = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and "PROGRAM TOTALS" not in line:
            functions.append((int(match.group(1).replace(",", "")), match.group(2)))
    return calls, functions


def short(function):
    """Without file, library and parameters."""
    function = re.sub(r"\s*\[[^]]*\]$", "", function)
    function = re.sub(r"^\S*?:(?!:)", "", function)
    return re.sub(r"(?<=\w)\(.*", "", function)


def main():
    program = sys.argv[1]
    benchmark = sys.argv[2] if len(sys.argv) > 2 else "BM_InprocCall"
    seconds = sys.argv[3] if len(sys.argv) > 3 else "0.2"
    calls, functions = profile(program, benchmark, seconds)
    rooms = collections.defaultdict(list)
    for instructions, function in functions:
        rooms[room_of(function)].append((instructions, function))
    total = sum(i for room in rooms for i, _ in rooms[room]
                if room not in ("start-up of the program", "polling while nothing is there"))
    print("%s: %d calls, %d instructions a call" % (benchmark, calls, total // calls))
    for room, found in sorted(rooms.items(), key=lambda item: -sum(i for i, _ in item[1])):
        own = sum(i for i, _ in found)
        print("%7.0f  %s" % (own / calls, room))
        for instructions, function in sorted(found, reverse=True)[:3]:
            if instructions / calls >= 20:
                print("           %5.0f  %s" % (instructions / calls, short(function)[:100]))


if __name__ == "__main__":
    main()
