#!/bin/sh
exec python3 tests/wire/wire_example_test.py docs/WIRE.md examples/calculator/server
