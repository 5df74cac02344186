#!/usr/bin/python3
"""The rows of a run that have a target, as the table of docs/PERFORMANCE_RUN.md.

    bench/run_table.py FILE             FILE: what `tools/bench --json=FILE` wrote
    bench/run_table.py FILE --missed    only the rows that missed it at some placement

Below the table it says how many figures met their target, each counted at each placement.
"""

import argparse
import json
import sys

_PLACEMENTS = ("different", "one", "unpinned")
_HEADS = {"different": "different", "one": "one CPU", "unpinned": "unpinned"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file", help="the results, one JSON object a line")
    parser.add_argument("--missed", action="store_true", help="only rows that missed their target")
    options = parser.parse_args()
    with open(options.file, encoding="utf-8") as file:
        figures = [figure for figure in map(json.loads, file) if figure["target"] is not None]
    if not figures:
        print("%s: no row with a target" % options.file, file=sys.stderr)
        return 1
    rows = {}  # id -> placement -> figure, in the order of the run
    for figure in figures:
        rows.setdefault(figure["id"], {})[figure["placement"]] = figure
    print("| row | %s | target |" % " | ".join(_HEADS[place] for place in _PLACEMENTS))
    print("|---|%s---|" % ("---|" * len(_PLACEMENTS)))
    for name, there in rows.items():
        if options.missed and all(figure["met"] is not False for figure in there.values()):
            continue
        cells = [_cell(there[place]) if place in there else "-" for place in _PLACEMENTS]
        what = next(iter(there.values()))["what"]
        print("| %s %s | %s | %s |" % (name, what, " | ".join(cells), _target(there)))
    met = [figure["met"] for figure in figures]
    print("\n%d met, %d missed, %d not measured" % (met.count(True), met.count(False), met.count(None)))
    return 0


def _cell(figure):
    if figure["value"] is None or figure["met"] is None:
        return "not measured"
    if figure["ratio"] is not None:
        cell = "%sx ±%.0f %% (%s)" % (
            _three(figure["ratio"]),
            50 * figure["ratio_spread"],
            _human(figure["value"], figure["unit"]),
        )
    else:
        cell = "%s ±%.0f %%" % (_human(figure["value"], figure["unit"]), 50 * figure["spread"])
    if not figure["stable"]:
        cell += " ?"
    return cell if figure["met"] else cell + " **missed**"


def _target(there):
    """The target of a row; it may be another one where both ends share a CPU."""
    texts = {
        place: _three(figure["target"]) + "x"
        if figure["target_unit"] == "x"
        else _human(figure["target"], figure["target_unit"])
        for place, figure in there.items()
    }
    usual = next((texts[place] for place in ("different", "unpinned") if place in texts), None)
    if usual is None or texts.get("one", usual) == usual:
        return usual or texts["one"]
    return "%s (one CPU: %s)" % (usual, texts["one"])


def _three(value):
    """Three digits, without an exponent."""
    return "%.3g" % value if value < 1000 else "%.0f" % value


def _human(value, unit):
    if unit == "bytes":
        return "{:,.0f} B".format(value)
    if unit == "count":
        return _three(value)
    if unit == "1/s":
        return _three(value) + "/s"
    if unit == "x":
        return _three(value) + "x"
    for limit, divisor, name in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if value < limit:
            return "%s %s" % (_three(value / divisor), name)
    return _three(value / 1e9) + " s"


if __name__ == "__main__":
    sys.exit(main())
