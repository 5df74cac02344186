#!/usr/bin/python3
"""Prints 1 when a process may step through its children with ptrace here, else 0.

Tests that need it fail then when they cannot, instead of passing with a NOTICE (base/tracing_testing.h).
"""

import ctypes
import os
import signal

TRACE_ME = 0
SINGLE_STEP = 9


def can_trace():
    """Whether a child can be stepped by one instruction."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    child = os.fork()
    if child == 0:
        if libc.ptrace(TRACE_ME, 0, None, None) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    _, status = os.waitpid(child, 0)  # of who is traced, also that it has stopped
    stepped = False
    if os.WIFSTOPPED(status):
        if libc.ptrace(SINGLE_STEP, child, None, None) == 0:
            _, status = os.waitpid(child, 0)
            stepped = os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP
        if os.WIFSTOPPED(status):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return stepped


if __name__ == "__main__":
    print(1 if can_trace() else 0)
