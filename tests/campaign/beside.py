"""For how long a target stands still when mempulse attaches, and when gdb does: seen from
outside, by the same eyes, in turns. Where we may, the scheduler's own events tell it: a thread that
a tracer holds leaves its core in state `t` (sched_switch) and is woken later (sched_waking, events of the
kernel's Documentation/trace/events.rst; that it is on a core again is no good measure: what an idle
core switches to is not always told, Linux 6.18). Elsewhere /proc/PID/stat is read again and again, some microseconds
apart (proc(5)), by a thread that needs a core for itself: on two cores it disturbs what it sees."""
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time

import harness
from lap import NEWEST

ROUNDS, GDB_ROUNDS = 500, 40  # gdb's visits take seconds: one in so many rounds
OLDER = ((3, 8), (3, 9), (3, 10), (3, 11))
STATES = ("fib", "select")
WORK_NS, STEP_NS = 300000, 5000  # what a pause may take; what takes longer than a step is no work of ours
COMMANDS = (
    ("mempulse", ("BINARY", "inject", "-p", "PID", "-d", "30ms", "-q", "--json")),
    ("gdb", ("gdb", "-nx", "-q", "-batch", "-p", "PID")),
)


EVENTS = {"sched_switch": "prev_pid == %d", "sched_waking": "pid == %d"}  # and which of them
# "    comm-PID [001] d..2. 83951.248598: sched_switch: prev_comm=… prev_pid=N prev_prio=… prev_state=t ==> next_comm=…"
# "    comm-PID [000] d..4. 83951.248601: sched_waking: comm=… pid=N prio=… target_cpu=…"
EVENT = re.compile(r" (\d+)\.(\d{6}): (?:sched_switch: .* prev_state=(\S+) ==>|(sched_waking):)")


def spells_of(changes):
    """(begin ns, end ns) of each time in which it was held, of (time ns, whether it begins to be held)."""
    spells, since = [], None
    for at, held in changes:
        if held:
            harness.check(since is None, "an end of a stop was not told")
            since = at
        elif since is not None:
            spells.append((since, at))
            since = None
    harness.check(since is None, "the target is still held")
    harness.check(spells, "it was not seen to be held")
    return spells


def times_of(spells, tries):
    """(held, still) in ns: how long it was held in all, and with what ran in between, which is calls that the tracer had
    it make; but for the longest times, one less than there were tries, which were its own."""
    held = sum(b - a for a, b in spells)
    between = sorted(b[0] - a[1] for a, b in zip(spells, spells[1:]))
    return held, held + sum(between[:len(between) - tries + 1])


class Events:
    """The kernel's events of one thread, in a trace instance of our own."""
    name = "events"

    def __init__(self, folder, tid):
        self.folder = folder
        for event, which in EVENTS.items():
            self.write("events/sched/%s/filter" % event, which % tid)
            self.write("events/sched/%s/enable" % event, "1")

    def write(self, name, value):
        with open(os.path.join(self.folder, name), "w") as f:
            f.write(value)

    def read(self, name):
        with open(os.path.join(self.folder, name), errors="replace") as f:
            return f.read()

    def begin(self):
        self.write("trace", "")
        self.write("tracing_on", "1")

    def end(self):
        self.write("tracing_on", "0")
        for core in os.listdir(os.path.join(self.folder, "per_cpu")):
            lost = re.search(r"^overrun: (\d+)", self.read("per_cpu/%s/stats" % core), re.M)
            harness.check(lost and lost.group(1) == "0", "events were lost on %s", core)
        found = (m.groups() for m in EVENT.finditer(self.read("trace")))
        changes = [(int(s) * 10**9 + int(us) * 1000, state is not None) for s, us, state, waking in found if waking or state.startswith("t")]
        return spells_of(changes), 1000  # the trace's text has microseconds


class Looks(threading.Thread):
    """Reads again and again whether the process is held by a tracer."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.fd = os.open("/proc/%d/stat" % pid, os.O_RDONLY)
        self.over, self.looks, self.changes = False, 0, []

    def run(self):
        was, over, begin = False, False, time.monotonic_ns()
        while not over:
            over = self.over  # and one look after that
            held = os.pread(self.fd, 64, 0).rpartition(b")")[2][1:2] == b"t"
            if held != was:
                self.changes.append((time.monotonic_ns(), held))
            was = held
            self.looks += 1
        self.step = (time.monotonic_ns() - begin) // max(1, self.looks)
        os.close(self.fd)


class Onlooker:
    name = "stat"

    def __init__(self, pid):
        self.pid, self.looks = pid, None

    def begin(self):
        self.looks = Looks(self.pid)
        self.looks.start()

    def end(self):
        self.looks.over = True
        self.looks.join()
        return spells_of(self.looks.changes), self.looks.step


def trace_folder(root):
    """That of a trace instance of our own in the tracefs at root; None where it is not to be had, or does not tell of our
    threads: in a PID namespace of our own they have other numbers."""
    folder = os.path.join(root, "instances", "mempulse-%d" % os.getpid())
    try:
        os.mkdir(folder)
        with open(os.path.join(folder, "trace_clock"), "w") as f:
            f.write("mono")
        own = Events(folder, os.getpid())
        own.begin()
        time.sleep(0.001)  # leaves the core: an event
        own.write("tracing_on", "0")
        if EVENT.search(own.read("trace")):
            return folder
        os.rmdir(folder)
    except OSError:
        pass
    return None


@contextlib.contextmanager
def trace_instance():
    """The folder of one of our own, in a tracefs mounted for it; None where there is none."""
    root = tempfile.mkdtemp()  # removed by rmdir only, which can't harm what is mounted there
    try:
        mounted = subprocess.run(["sh", "-c", "mount -t tracefs none '%s'" % root], stderr=subprocess.DEVNULL).returncode == 0
        try:
            folder = trace_folder(root) if mounted else None
            try:
                yield folder
            finally:
                if folder:
                    os.rmdir(folder)
        finally:
            if mounted:
                subprocess.run(["umount", "-l", root], check=True)
    finally:
        os.rmdir(root)


def tries_of(output):
    """How often the tracer stopped a thread until it had one that it could use: mempulse tells it in its first record."""
    return json.loads(output.split(b"\n")[0])["attempts"] if output.startswith(b"{") else 1


def visit(eyes, argv):
    """(held ns, still ns, how exact ns, took ns)"""
    eyes.begin()
    begin = time.monotonic_ns()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    took = time.monotonic_ns() - begin
    try:
        spells, step = eyes.end()
    finally:
        harness.check(done.returncode == 0, "%s: exit code %d", argv[0], done.returncode)
    return times_of(spells, tries_of(done.stdout)) + (step, took)


def work():
    """How long (ns) WORK_NS of work take here and now: a thread that reads the clock, and loses its core, or the
    machine its own to another guest, for what is missing between two readings."""
    worked = 0
    begin = before = time.monotonic_ns()
    while worked < WORK_NS:
        now = time.monotonic_ns()
        worked += now - before if now - before < STEP_NS else 0
        before = now
    return before - begin


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
    with trace_instance() as folder:
        for interpreter, state in itertools.product(pick(interpreters), STATES):
            with harness.Target(interpreter.path, state) as target:
                eyes = Events(folder, target.pid) if folder else Onlooker(target.pid)
                for turn in range(ROUNDS):
                    took = work()
                    yield {"t": "noise", "tool": "none", "state": state, "python": interpreter.name, "eyes": "clock",
                           "held_ns": 0, "still_ns": took, "took_ns": took, "step_ns": STEP_NS}
                    for name, argv in commands_of(turn):
                        words = [binary if word == "BINARY" else word.replace("PID", str(target.pid)) for word in argv]
                        held, still, step, took = visit(eyes, words)
                        yield {"t": "beside", "tool": name, "state": state, "python": interpreter.name, "eyes": eyes.name,
                               "held_ns": held, "still_ns": still, "took_ns": took, "step_ns": step}
                        time.sleep(0.05)  # not for readiness: so that visits do not follow each other at once
