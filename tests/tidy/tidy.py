#!/usr/bin/python3
"""Checks the layout and the style of the tree.

    tidy.py                        prints every problem; exit status 1 when there is one
    tidy.py --update               accepts today's counts of what ratchet.txt counts

Rules are functions of rules.py that take the tree and yield problems. Some rules are a ratchet: a
file may break them as often as ratchet.txt says and no more; and when it breaks them less often,
ratchet.txt has to say so, so that it only ever gets shorter.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import rules  # noqa: E402
from tree import Tree  # noqa: E402

RATCHET = "tests/tidy/ratchet.txt"


def read_ratchet(tree):
    """ratchet.txt as {(rule, path): allowed count}."""
    allowed = {}
    for line in tree.lines(RATCHET) if tree.has(RATCHET) else []:
        words = line.split("#")[0].split()
        if words:
            allowed[(words[0], words[1])] = int(words[2])
    return allowed


def check(tree):
    """Every problem of the tree, as lines of text for a person."""
    problems = ["%s: %s" % problem for rule in rules.STRICT for problem in rule(tree)]

    allowed = read_ratchet(tree)
    found = count(tree)
    for (rule, path), places in sorted(found.items()):
        limit = allowed.get((rule, path), 0)
        if len(places) > limit:
            problems += ["%s: %s" % (path, place) for place in places]
            if limit > 0:
                problems.append(
                    "%s: %s %d times; %s allows %d" % (path, rule, len(places), RATCHET, limit)
                )
    for (rule, path), limit in sorted(allowed.items()):
        now = len(found.get((rule, path), []))
        if now < limit:
            problems.append(
                "%s: allows %s %d times in %s, where it is %d now: run tests/tidy/tidy.py --update"
                % (RATCHET, rule, limit, path, now)
            )
    return problems


def count(tree):
    """{(rule, path): [what is wrong there, one text for each place]} of the ratchet's rules."""
    found = {}
    for name, rule in rules.RATCHETED.items():
        for path, problem in rule(tree):
            found.setdefault((name, path), []).append(problem)
    return found


def update(tree):
    """Writes today's counts into ratchet.txt."""
    with open(os.path.join(tree.root, RATCHET), "w", encoding="utf-8") as file:
        file.write("# What tests/tidy lets pass: rule, file, how often. Make it shorter, not longer.\n")
        for (rule, path), places in sorted(count(tree).items()):
            file.write("%s %s %d\n" % (rule, path, len(places)))


def main():
    parser = argparse.ArgumentParser(description="Checks the layout and the style of the tree.")
    parser.add_argument("--root", help="root of the tree; the one that this file is in if not given")
    parser.add_argument("--root_of", help="a file in the root of the tree, or a link to it")
    parser.add_argument("--update", action="store_true", help="accept today's counts")
    options = parser.parse_args()
    here = os.path.dirname(os.path.realpath(__file__))
    root = options.root or os.path.join(here, "..", "..")
    if options.root_of:
        root = os.path.dirname(os.path.realpath(options.root_of))
    tree = Tree(os.path.realpath(root))
    if options.update:
        update(tree)
    problems = check(tree)
    for problem in problems:
        print(problem)
    print("%d files looked at, %d problems" % (len(tree.paths()), len(problems)))
    return 1 if problems or not tree.paths() else 0


if __name__ == "__main__":
    sys.exit(main())
