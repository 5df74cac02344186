#!/bin/bash
# Each task is answered, the killed worker's one by another, and nothing is left behind, with few and
# with many workers.
set -eu
export MI7_RUNTIME_DIR=$TEST_TMPDIR
timeout 200 examples/task_queue/task_queue --tasks=60 --workers=3 >"$TEST_TMPDIR/output"
cat "$TEST_TMPDIR/output"
grep -qx 'task 30 was answered at attempt 2' "$TEST_TMPDIR/output"
grep -qx '60 of 60 tasks answered by 3 workers, 1 of which was killed' "$TEST_TMPDIR/output"
[ -z "$(ls "$MI7_RUNTIME_DIR/pipes")" ]

# More workers than a pipe has places for participants by default.
timeout 200 examples/task_queue/task_queue --tasks=60 --workers=80 >"$TEST_TMPDIR/output"
cat "$TEST_TMPDIR/output"
grep -qx '60 of 60 tasks answered by 80 workers, 1 of which was killed' "$TEST_TMPDIR/output"
[ -z "$(ls "$MI7_RUNTIME_DIR/pipes")" ]
status=0
examples/task_queue/task_queue --workers=4094 2>"$TEST_TMPDIR/output" || status=$?
[ "$status" = 2 ]
grep -qx 'task_queue: --workers=4094 is not 2 to 4093' "$TEST_TMPDIR/output"
