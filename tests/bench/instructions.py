#!/usr/bin/env python3
"""How many instructions of ours a call costs: counted, not timed, so that neighbours and
clocks don't matter. A real target is injected, then its thread is single-stepped
(PTRACE_SINGLESTEP) over a known number of calls; each instruction that lies in the agent
or in the thunk's page counts. Between two of Python's, they are a *visit*; visits
that begin at the same address and come at least every other call are the path that a call
takes, at their median length. (What happens rarely, such as a function's first event,
is not in it. The kernel is not in it either: a system call is one instruction.)

    instructions.py [--write] [--some] [-v] [-k PATTERN]    with $BUILD; ends with `N passed, N failed, N skipped`

After the detach all instructions of the target's thread are counted, with those of the
interpreter: as many as before the injection, but for 1%.

Compared with instructions.txt: it fails when a path has grown by more than 10%. --write
makes that file anew, --some keeps to one interpreter of each way of hooking. The counts are one
compiler's; with another nothing is compared."""
import argparse
import collections
import concurrent.futures
import contextlib
import ctypes
import mmap
import multiprocessing
import os
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import bounded
import places

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(HERE, "instructions.txt")
GROWTH = 1.10
AFTER = 1.01        # of what a cycle took before the injection
SOME = ("3.6", "3.8", "3.11", "3.12", "3.13")
CALLS = 40          # in a cycle of the target: a function within the depth is called a few times, far fewer
CYCLES = 1          # that are stepped through
WHOLE_CYCLES = 3    # where all instructions are counted: the median is taken
MAX_STEPS = 2000000
SETTLE = 1.2        # seconds until functions that can't matter are switched off
SECONDS = 60        # of a case
TRIES = 3           # of one that costs too much: a round of hook_round's may fall into the steps, which are slow, and
                    # then each function is seen some more times before it is switched off again
JOBS = 2            # interpreters at once: stepping, a thread and its tracer take turns
worker = 0          # which of them this process is
ALONE = ("--max-overhead", "0")

# what it is; options; what the target runs
CASES = collections.OrderedDict((
    ("below", ("a call below the traced depth", ALONE, "deep")),
    ("rooted", ("a call below the traced depth, which might be a --root", ALONE + ("--root", "cycle"), "deep")),
    ("outside", ("a call within the depth that no name matches", ALONE + ("--function", "no_such"), "shallow")),
    ("traced", ("a call that is measured and recorded", ALONE, "shallow")),
))

TARGET = r"""
import mmap, struct, sys, threading
path, kind = sys.argv[1:]
with open(path, "r+b") as f:
    count = mmap.mmap(f.fileno(), 16)
threading.Thread(target=threading.Event().wait, daemon=True).start()  # not alone: nothing may rest
def tiny():
    pass
def many():
    for _ in range(CALLS):
        tiny()
def level_2():
    many()
def level_1():
    level_2()
def cycle(n):
    (level_1 if kind == "deep" else many)()
    struct.pack_into("q", count, 0, n)
count[8] = 1         # ready
while not count[9]:  # no call is made before the hook is there: the module is the base
    pass
n = 0
while True:
    n += 1
    cycle(n)
""".replace("CALLS", str(CALLS))


# --- ptrace --------------------------------------------------------------------------------

PTRACE_SINGLESTEP, PTRACE_PEEKUSER, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 9, 3, 17, 0x4206, 0x4207
RIP = 16 * 8  # offset in struct user, asm/ptrace.h
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, address=0, data=0):
    """PEEKUSER's library function returns the word itself, so -1 is a word; the others fail with -1."""
    result = libc.ptrace(request, pid, address, data)
    if result == -1 and request != PTRACE_PEEKUSER:
        raise bounded.Skip("ptrace: " + os.strerror(ctypes.get_errno()))
    return result & 0xffffffffffffffff


def stopped(pid):
    _, status = os.waitpid(pid, 0x40000000)  # __WALL
    if not os.WIFSTOPPED(status):
        raise bounded.Skip("the target ended while it was stepped through")
    return os.WSTOPSIG(status)


@contextlib.contextmanager
def beside(pid):
    """Its thread and we on one CPU, each worker's its own: of two, each step would wake up an idle one."""
    ours, its = os.sched_getaffinity(0), os.sched_getaffinity(pid)
    cpus = sorted(ours & its)
    for who in (0, pid):
        os.sched_setaffinity(who, {cpus[worker % len(cpus)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)
        with contextlib.suppress(OSError):  # it may have ended
            os.sched_setaffinity(pid, its)


def addresses(pid, moving):
    """The instruction pointer after each step, while moving() says so."""
    with beside(pid):
        yield from steps_of(pid, moving)


def steps_of(pid, moving):
    ptrace(PTRACE_SEIZE, pid)
    ptrace(PTRACE_INTERRUPT, pid)
    stopped(pid)
    try:
        for _ in range(MAX_STEPS):
            if not moving():
                return
            ptrace(PTRACE_SINGLESTEP, pid)
            number = stopped(pid)
            if number != signal.SIGTRAP:
                raise bounded.Skip("the target was sent signal %d" % number)
            yield ptrace(PTRACE_PEEKUSER, pid, RIP)
        raise bounded.Skip("%d cycles took more than %d steps" % (CYCLES, MAX_STEPS))
    finally:
        try:
            ptrace(PTRACE_DETACH, pid)
        except bounded.Skip:
            pass


# --- what is counted -------------------------------------------------------------------------

def executable(pid):
    """{(start, end): name}"""
    found = {}
    with open("/proc/%d/maps" % pid) as f:
        for line in f:
            fields = line.split(None, 5)
            if "x" in fields[1]:
                found[tuple(int(a, 16) for a in fields[0].split("-"))] = fields[5].strip() if len(fields) > 5 else ""
    return found


def ours_in(pid, before):
    """What the injection mapped: the agent's text, the thunk's page (which has no name). And the
    vdso: a clock is read on the way, and is no way back to Python."""
    now = executable(pid)
    ours = [span for span, name in now.items() if span not in before and ("mempulse" in name or not name)]
    return ours, [span for span, name in now.items() if name == "[vdso]"][0]


def visits(pid, before, moving):
    """{address where a visit begins: lengths}."""
    ours, vdso = ours_in(pid, before)
    if not ours:
        raise bounded.Skip("no text of the agent's in the target")
    found, begin, length = collections.defaultdict(list), None, 0
    for address in addresses(pid, moving):
        if any(low <= address < high for low, high in ours):
            begin, length = begin or address, length + 1
        elif begin and not vdso[0] <= address < vdso[1]:
            found[begin].append(length)
            begin, length = None, 0
    return found


def path_of(found, calls):
    return sum(int(statistics.median_low(lengths)) for lengths in found.values() if len(lengths) >= calls / 2)


@contextlib.contextmanager
def running(python, kind):
    """(the target, the number of its cycle), not yet told to begin."""
    with tempfile.NamedTemporaryFile() as shared:
        shared.write(bytes(16))
        shared.flush()
        counter = mmap.mmap(shared.fileno(), 16)
        target = bounded.spawn([python, "-c", TARGET, shared.name, kind], stdin=subprocess.DEVNULL)
        wait_for(lambda: counter[8], target, 20)
        yield target, counter


def inject(program, target, options):
    launcher = bounded.spawn([program, "inject", "-p", str(target.pid), "-f", "ndjson", "-o", "/dev/null"] + list(options),
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    banner = launcher.stderr.readline()
    if "attached" not in banner:
        raise bounded.Skip("mempulse: " + banner.strip())
    return launcher, banner


def whole_cycle(target, counter):
    """Instructions of a cycle, whosever they are."""
    marks, steps, number = [], 0, number_of(counter)
    for _ in addresses(target.pid, lambda: len(marks) <= WHOLE_CYCLES):
        steps, now = steps + 1, number_of(counter)
        if now > number:  # pack_into clears the place first
            number = now
            marks.append(steps)
    return statistics.median_low(b - a for a, b in zip(marks, marks[1:]))


def before_and_after(program, python):
    with running(python, "shallow") as (target, counter):
        counter[9] = 1
        time.sleep(SETTLE)
        before = whole_cycle(target, counter)
        launcher, _ = inject(program, target, ALONE)
        time.sleep(SETTLE)
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=20)
        if launcher.returncode != 130:  # SIGINT, and nothing left
            raise bounded.Skip("mempulse ended with %d" % launcher.returncode)
        time.sleep(SETTLE)
        return before, whole_cycle(target, counter)


def count(program, python, options, kind, verbose=False):
    with running(python, kind) as (target, counter):
        before = executable(target.pid)
        launcher, banner = inject(program, target, options)
        counter[9] = 1
        time.sleep(SETTLE)
        begun = []

        def moving():  # from the first step, in the middle of a cycle, which counts little
            if not begun:
                begun.append(number_of(counter))
            return number_of(counter) < begun[0] + 1 + CYCLES

        found = visits(target.pid, before, moving)
        if verbose:
            for begin, lengths in sorted(found.items()):
                print("    %#x: %d visits, %s" % (begin, len(lengths), dict(collections.Counter(lengths).most_common(5))))
        launcher.send_signal(signal.SIGINT)
        said = launcher.communicate(timeout=20)[1]
        if verbose:
            print("    " + " ".join((banner + said).split()))
        return path_of(found, CALLS * CYCLES)


def number_of(counter):
    return struct.unpack_from("q", counter, 0)[0]


def wait_for(condition, target, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or target.poll() is not None:
            raise bounded.Skip("the target does not run")
        time.sleep(0.01)


# --- the table -------------------------------------------------------------------------------

def compiler(build):
    text = bounded.run(["readelf", "-p", ".comment", os.path.join(build, "agent.so")], 20, stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL, text=True).stdout
    match = re.search(r"\]\s+(.*)", text)
    return match.group(1).strip() if match else "unknown"


def read_table():
    """({(python, case): count}, compiler)"""
    if not os.path.exists(TABLE):
        return {}, None
    with open(TABLE) as f:
        lines = [line.split("#")[0].split() for line in f]
        f.seek(0)
        made_by = re.search(r"^# compiler: (.*)$", f.read(), re.M)
    return {(w[0], w[1]): int(w[2]) for w in lines if w}, made_by and made_by.group(1)


def write_table(rows, made_by):
    with open(TABLE, "w") as f:
        f.write("# Instructions of the agent's in one call, system calls as one each. Made by instructions.py --write.\n"
                "# compiler: %s\n" % made_by)
        for name, (what, _, _) in CASES.items():
            f.write("# %s: %s\n" % (name, what))
        for (python, case), value in rows.items():
            f.write("%-12s %-8s %5d\n" % (python, case, value))


def verdict(measured, allowed):
    """None is no opinion."""
    if allowed is None:
        return None
    return measured <= allowed * GROWTH


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--some", action="store_true")
    parser.add_argument("-k", dest="pattern", default="")
    parser.add_argument("-v", dest="verbose", action="store_true")
    options = parser.parse_args()
    bounded.stop_on_signals()
    build = os.path.abspath(os.environ.get("BUILD", "build"))
    made_by = compiler(build)
    table, table_by = read_table()
    if table_by != made_by and not options.write:
        print("instructions: skipped (the table was made with %s, this agent with %s)" % (table_by, made_by))
        print("0 passed, 0 failed, 1 skipped")
        return 0
    rows, tally = collections.OrderedDict(table if options.write else {}), collections.Counter()
    with concurrent.futures.ProcessPoolExecutor(JOBS, initializer=begin_worker, initargs=(multiprocessing.Value("i", 0),)) as pool:
        for future in [pool.submit(interpreter, build, python, path, table, options)
                       for python, path in places.interpreters(SOME if options.some else None, 6).items()]:
            its_rows, its_tally = future.result()
            rows.update(its_rows)
            tally.update(its_tally)
    if options.write:
        write_table(rows, made_by)
    print("%d passed, %d failed, %d skipped" % (tally["ok"], tally["FAILED"], tally["skipped"]))
    return 1 if tally["FAILED"] else 0


def begin_worker(workers):
    global worker
    bounded.stop_on_signals()
    with workers.get_lock():
        worker = workers.value
        workers.value += 1


def interpreter(build, python, path, table, options):
    """In a process of its own. What was measured, and how many of each word."""
    rows, tally = collections.OrderedDict(), collections.Counter()
    if options.pattern in "instructions %s after" % python:
        tally[after(build, python, path)] += 1
    for case, (what, arguments, kind) in CASES.items():
        if options.pattern in "instructions %s %s" % (python, case):
            tally[one(build, python, path, case, arguments, kind, table, rows, options)] += 1
    return rows, tally


def after(build, python, path):
    name = "instructions %s after detach" % python
    try:
        with bounded.point(SECONDS):
            before, now = before_and_after(os.path.join(build, "mempulse"), path)
    except (bounded.Skip, OSError, subprocess.SubprocessError) as reason:
        print("%s: skipped (%s)" % (name, reason), flush=True)
        return "skipped"
    word = "ok" if now <= before * AFTER else "FAILED"
    print("%s: %s (%d in a cycle, before the injection %d)" % (name, word, now, before), flush=True)
    return word


def one(build, python, path, case, arguments, kind, table, rows, options):
    name = "instructions %s %s" % (python, case)
    allowed = table.get((python, case))
    try:
        for _ in range(TRIES):
            with bounded.point(SECONDS):
                measured = count(os.path.join(build, "mempulse"), path, arguments, kind, options.verbose)
            if options.write or verdict(measured, allowed) is not False:
                break
    except (bounded.Skip, OSError, subprocess.SubprocessError) as reason:
        print("%s: skipped (%s)" % (name, reason), flush=True)
        return "skipped"
    rows[python, case] = measured
    good = True if options.write else verdict(measured, allowed)
    word = {True: "ok", False: "FAILED", None: "skipped"}[good]
    print("%s: %s (%d, allowed %s)" % (name, word, measured, "-" if allowed is None else "%d + 10%%" % allowed), flush=True)
    if word == "FAILED":
        print("  a call costs %d instructions of the agent's, it was %d: make it cheaper, or run\n"
              "  tests/bench/instructions.py --write and tell why in the commit" % (measured, allowed), flush=True)
    return word


if __name__ == "__main__":
    sys.exit(main())
