#!/usr/bin/python3
"""Copies stdin to stdout with one text replaced, which must be there exactly once."""

import re
import sys

old, new = sys.argv[1:]
text = sys.stdin.read()
# How the source is wrapped does not matter.
pattern = r"\s+".join(re.escape(word) for word in old.split())
count = len(re.findall(pattern, text))
if count != 1:
    sys.exit("%d places instead of one have: %s" % (count, old))
sys.stdout.write(re.sub(pattern, lambda _: new, text))
