"""For how long a target stands still when mempulse attaches, and when gdb does: seen from
outside, by the same eyes, in turns. A thread that a tracer holds is `t` in /proc/PID/stat
(proc(5)); it is read again and again, some microseconds apart."""
import itertools
import os
import shutil
import subprocess
import threading
import time

import harness
from lap import NEWEST

ROUNDS, GDB_ROUNDS = 500, 40  # gdb's visits take seconds: one in so many rounds
OLDER = ((3, 8), (3, 9), (3, 10), (3, 11))
STATES = ("fib", "select")
COMMANDS = (
    ("mempulse", ("BINARY", "inject", "-p", "PID", "-d", "30ms", "-q", "-o", os.devnull)),
    ("gdb", ("gdb", "-nx", "-q", "-batch", "-p", "PID")),
)


class Watch(threading.Thread):
    """Adds up the time in which the process is held by a tracer."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.fd = os.open("/proc/%d/stat" % pid, os.O_RDONLY)
        self.over, self.held_ns, self.looks = False, 0, 0

    def run(self):
        held, before = False, time.monotonic_ns()
        while not self.over:
            text = os.pread(self.fd, 64, 0)
            now = time.monotonic_ns()
            if held:
                self.held_ns += now - before
            held, before = text[text.index(b")") + 2:][:1] == b"t", now
            self.looks += 1
        os.close(self.fd)


def visit(target, argv):
    """(held ns, took ns, ns between two looks)"""
    watch = Watch(target.pid)
    begin = time.monotonic_ns()
    watch.start()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    took = time.monotonic_ns() - begin
    watch.over = True
    watch.join()
    harness.check(done.returncode == 0, "%s: exit code %d", argv[0], done.returncode)
    return watch.held_ns, took, took // max(1, watch.looks)


def pick(interpreters):
    """The newest that is supported, and one that is hooked in another way: the newest of the older ones."""
    plain = sorted((i for i in interpreters if i.kind is None and i.version <= NEWEST), key=lambda i: i.version)
    older = [i for i in plain if i.version in OLDER]
    return [i for n, i in enumerate(plain[-1:] + older[-1:]) if n == 0 or i is not plain[-1]]


def commands_of(turn):
    for name, argv in COMMANDS:
        if name != "gdb" or shutil.which("gdb") and turn * GDB_ROUNDS // ROUNDS < (turn + 1) * GDB_ROUNDS // ROUNDS:
            yield name, argv


def rows(binary, interpreters):
    """Rows of the file of results."""
    for interpreter, state in itertools.product(pick(interpreters), STATES):
        with harness.Target(interpreter.path, state) as target:
            for turn in range(ROUNDS):
                for name, argv in commands_of(turn):
                    words = [binary if word == "BINARY" else word.replace("PID", str(target.pid)) for word in argv]
                    held, took, step = visit(target, words)
                    yield {"t": "beside", "tool": name, "state": state, "python": interpreter.name,
                           "held_ns": held, "took_ns": took, "step_ns": step}
                    time.sleep(0.05)  # not for readiness: so that visits do not follow each other at once
