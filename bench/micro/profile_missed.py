#!/usr/bin/env python3
"""Profiles every timed row that missed its target, on both sides, and prints tables of where the time goes.

    bench/micro/profile_missed.py [OPTION ...] --figures=FILE

    tools/bench --json=today.json && bench/micro/profile_missed.py --figures=today.json --details=today.txt
    bench/micro/profile_missed.py --figures=today.json --beside --only=T1@one,V6.zeromq

    --figures=FILE      what --json of a run of the same programs wrote: what the nanoseconds add up to
    --details=FILE      the profiles with their functions, as profile_sides.py prints them
    --bench=PROGRAM     the bench; default: bazel-bin/bench/harness/bench
    --programs=DIR      the subjects, as for the bench
    --rounds=N          default: 9
    --measure=TIME      of a round; default: 500ms
    --apart=SHARE       a profile whose own figure is further than that from the run's is taken again, up to three
                        times, for the machine was another one just then; default: 0.12
    --only=ROW,...      these alone, whether missed or met or without a target; ROW or ROW@PLACEMENT
    --beside            beside each, what it is held against, a limit or a peer, where a row shows that at the same
                        placement: what the one has more of than the other, and in which room

Rows that ask for the same calls of mi7 at the same placement share a profile: the table names them all. "d": client and
server on a CPU each, "1": both on one, "u": unpinned. Rows about CPU time, and those of which a side works for longer
than a call takes (between two timed calls, or on several CPUs), add up to each side's CPU time. The output is Markdown; profile_sides.py says how it is measured.
"""

import argparse
import contextlib
import json
import re
import sys

from profile_sides import LIBRARY, Profile, WAITING, show_all

# Of a table, in order: (name, what of profile_sides.py's rooms is in it).
ROOMS = [
    ("polling, nothing is there", re.compile(re.escape(WAITING))),
    ("kernel: send", re.compile("kernel: send")),
    ("kernel: receive, also in vain", re.compile("kernel: receive")),
    ("kernel: epoll, futex", re.compile("kernel: (epoll|futex)")),
    ("kernel: page faults, memory, interrupts, other", re.compile("kernel: ")),
    ("transport, or slot pipe", re.compile("transport|slot pipe")),
    ("messages: building, checking, keeping", re.compile("messages")),
    ("clearing, copying, allocating", re.compile("memory: ")),
    ("rpc, either side", re.compile("rpc")),
    ("Cap'n Proto", re.compile("Cap'n Proto")),
    ("generated code", re.compile("generated code")),
    ("the peer's library", re.compile(re.escape(LIBRARY))),
    ("the bench", re.compile("the bench")),
    ("C library: locks, clock, into the kernel", re.compile("C library")),
    ("not known", re.compile("")),
]
COLUMNS = 4  # profiles a table


def read(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def is_timed(figure):
    return figure["unit"] == "ns" and not figure["id"].endswith((".p99", ".fair")) and not figure["missing"]


def is_cpu(figure):
    return figure["what"].startswith("CPU: ")


def calls_of(figure):
    """What mi7 does in the row, the same text for rows that share it."""
    what = figure["what"].removeprefix("CPU: ").split(" / ")[0]
    return what.split(", a call, the side")[0], figure["placement"]


def wanted(figures, only):
    """{calls: its figures} of the rows to be profiled."""
    found = {}
    for figure in figures:
        name = figure["id"], figure["id"] + "@" + figure["placement"]
        if not is_timed(figure):
            continue
        if (name[0] in only or name[1] in only) if only else figure["met"] is False:
            found.setdefault(calls_of(figure), []).append(figure)
    return found


def take(figure, options):
    """A profile of about the figure of the run."""
    best = None
    for _ in range(3):
        profile = Profile(figure["id"], figure["placement"], options.bench, options.programs, options.figures,
                          options.rounds, options.measure)
        apart = abs(profile.profiled["value"] / profile.figure["value"] - 1)
        if best is None or apart < best[0]:
            best = apart, profile
        if apart <= options.apart:
            break
    return best


def takes_more_than_its_time(profile):
    """Whether a side works for a call beside the time that is measured of it, between two calls or on further CPUs."""
    return max(profile.cpu_ns(side) for side in Profile.SIDES) > 1.3 * profile.figure["value"]


def column(profile, side, cpu):
    """The rooms' nanoseconds, and what comes before and after them."""
    in_all = profile.cpu_ns(side) if cpu else profile.figure["value"]
    each_ns, rest_ns = profile.scale(side, in_all)
    rooms = [0.0] * len(ROOMS)
    for room, found in profile.counts[side].items():
        index = next(i for i, (_, pattern) in enumerate(ROOMS) if pattern.match(room))
        rooms[index] += sum(found.values()) * each_ns
    return [rest_ns] + rooms + [in_all]


def heading(name, apart, cpu, options):
    if apart > options.apart:
        name += " (%.0f %% apart)" % (100 * apart)
    return name + (" (CPU time)" if cpu else "")


def name_of(figures):
    ids = list(dict.fromkeys(figure["id"] for figure in figures))
    letter = {"different": "d", "one": "1", "unpinned": "u"}[figures[0]["placement"]]
    return "%s %s" % (", ".join(ids), letter)


def limits_of(figures, rows):
    """The figures of the rows that show what `figures` are held against, each once; `rows`: all of the run."""
    wanted = {(figure.get("limit_row"), figure["placement"]) for figure in figures}
    return [row for row in rows if (row["id"], row["placement"]) in wanted and is_timed(row)]


def parts_of(groups):
    """Groups of profiles by tables: what stands beside each other is in one, however many that are."""
    part = []
    for group in groups:
        if part and len(part) + len(group) > COLUMNS:
            yield part
            part = []
        part = part + group
    if part:
        yield part


def print_tables(groups):
    for part in parts_of(groups):
        columns = [column(profile, side, cpu) for _, profile, cpu in part for side in Profile.SIDES]
        print("\n| ns a call | %s |" % " | ".join("%s, %s" % (name, side) for name, _, _ in part for side in Profile.SIDES))
        print("|" + "---|" * (1 + len(columns)))
        for index, name in enumerate(["asleep, or waiting for a CPU"] + [name for name, _ in ROOMS] + ["in all"]):
            if not any(each[index] >= 0.5 for each in columns):
                continue
            print("| %s | %s |" % (name, " | ".join("%.0f" % each[index] for each in columns)))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--figures", required=True)
    parser.add_argument("--details")
    parser.add_argument("--bench", default="bazel-bin/bench/harness/bench")
    parser.add_argument("--programs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--measure", default="500ms")
    parser.add_argument("--apart", type=float, default=0.12)
    parser.add_argument("--only", default="")
    parser.add_argument("--beside", action="store_true")
    options = parser.parse_args()
    rows = read(options.figures)
    groups = wanted(rows, [name for name in options.only.split(",") if name])
    profiles = {}  # of the limits, which several rows share
    taken = []
    with open(options.details, "w") if options.details else contextlib.nullcontext() as details:
        for number, (_, figures) in enumerate(groups.items()):
            print("%d of %d: %s" % (number + 1, len(groups), name_of(figures)), file=sys.stderr)
            group = [(name_of(figures), take(figures[0], options))]
            for row in limits_of(figures, rows) if options.beside else []:
                name = name_of([row])
                if name not in profiles:
                    profiles[name] = take(row, options)
                group.append((name, profiles[name]))
            # Those that stand beside each other add up to the same kind of time.
            cpu = (all(is_cpu(figure) for figure in figures)
                   or any(takes_more_than_its_time(profile) for _, (_, profile) in group))
            taken.append([(heading(name, apart, cpu, options), profile, cpu) for name, (apart, profile) in group])
            if details:
                with contextlib.redirect_stdout(details):
                    for name, profile, _ in taken[-1]:
                        print("\n=== " + name)
                        show_all(profile, cpu, 8)
                details.flush()
    print_tables(taken)


if __name__ == "__main__":
    main()
