#!/usr/bin/python3
"""run.py [-k PATTERN] [-v] [--short] [--all] [--jobs N]: the live tests, on every
interpreter found. BUILD names the folder of the binary, PYTHONS (paths with
colons) replaces the search for interpreters. What tests the launcher more than the
hook runs on three of them (the first, the middle, the last) unless --all, what is about
hostile targets on two.

Tests of one list run one after the other, those of up to three lists side by side. Prints a line
a test, failures in full, and at the end `N passed, N failed, N skipped`; exits 1 when one failed
or none ran."""
import argparse
import collections
import concurrent.futures
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

import bare
import channel
import children
import cli
import contract
import governor
import harness
import hostile
import lines
import memory
import rivals
import scenarios
import sessions
import steps
import unload

ROOT = os.path.dirname(os.path.dirname(harness.HERE))
Test = collections.namedtuple("Test", "name function interpreter")
JOBS_MAX = 3


class Context:
    """What a test is given."""

    def __init__(self, interpreter, binary, folder, pauses):
        self.interpreter, self.binary, self.folder, self.pauses = interpreter, binary, folder, pauses

    @property
    def python(self):
        return self.interpreter.path

    def file(self, name):
        return os.path.join(self.folder, name)


def collect(interpreters, options):
    """[[Test]]: lists that may run side by side, the longest first."""
    groups = []
    few = [interpreters[i] for i in (0, len(interpreters) // 2, -1)] if interpreters else []
    for interpreter in interpreters[:1] if options.short else interpreters:
        lists = [[scenarios, sessions, lines, unload]]
        if options.all or interpreter in few:
            lists.append([rivals, governor, contract, children, channel])
        if options.all or interpreter in few[::2]:
            lists.append([hostile])
        lists = [[case for part in parts for case in part.tests(options.short)] for parts in lists]
        if options.all or interpreter is few[-1]:
            lists[0] += list(memory.tests(options.short)) + list(steps.tests(options.short))
        lists[0] += bare.tests(interpreter.version[:2] == (3, 6))
        lists[0] += cli.tests(options.short, everywhere=interpreter is not interpreters[0] and not options.short)
        groups += [[Test("%s: %s" % (interpreter.name, name), function, interpreter) for name, function in cases] for cases in lists]
    groups = [[test for test in tests if options.pattern in test.name] for tests in groups]
    return sorted(groups, key=len, reverse=True)


class Tally:
    """Counts and prints; used by several threads."""

    def __init__(self, verbose):
        self.passed = self.failed = self.skipped = 0
        self.verbose, self.lock = verbose, threading.Lock()

    def add(self, name, outcome, seconds, detail=""):
        with self.lock:
            setattr(self, outcome, getattr(self, outcome) + 1)
            word = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}[outcome]
            tail = " (%s)" % detail if outcome == "skipped" else " (%.1f s)" % seconds if self.verbose else ""
            print("%s: %s%s" % (name, word, tail), flush=True)
            if outcome == "failed":
                print("  " + detail.rstrip().replace("\n", "\n  "), flush=True)


def run_test(test, binary, tally, pauses):
    folder = tempfile.mkdtemp(prefix="mp-live-")
    os.chmod(folder, 0o777)  # tests as another user write here too
    start = time.monotonic()
    try:
        test.function(Context(test.interpreter, binary, folder, pauses))
    except harness.Skip as reason:
        tally.add(test.name, "skipped", 0, str(reason))
    except AssertionError as failure:
        tally.add(test.name, "failed", time.monotonic() - start, str(failure))
    except Exception:  # a defect of the test itself is a failure too
        tally.add(test.name, "failed", time.monotonic() - start, traceback.format_exc())
    else:
        tally.add(test.name, "passed", time.monotonic() - start)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_groups(groups, jobs, binary, tally, pauses):
    """Each worker takes one list after the other."""
    waiting = queue.Queue()
    for group in groups:
        waiting.put(group)

    def work():
        while True:
            try:
                group = waiting.get_nowait()
            except queue.Empty:
                return
            for test in group:
                run_test(test, binary, tally, pauses)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()


def tell_pauses(pauses):
    if pauses:
        ordered = sorted(pauses)
        print("pause of the targets in %d sessions: median %d us, largest %d us"
              % (len(ordered), ordered[len(ordered) // 2] // 1000, ordered[-1] // 1000))


def copy_for_all(build):
    """The binary and the targets where every user can reach them, be the tree below
    somebody's home: tests also run as nobody."""
    folder = tempfile.mkdtemp(prefix="mp-bin-")
    os.chmod(folder, 0o755)
    harness.TARGETS = shutil.copytree(harness.TARGETS, os.path.join(folder, "targets"), ignore=shutil.ignore_patterns("__pycache__"))
    for path, _, files in os.walk(folder):
        for name in [""] + files:
            os.chmod(os.path.join(path, name), 0o644 if name else 0o755)
    return shutil.copy(os.path.join(build, "mempulse"), folder)


def leave(number, frame):
    """Workers are not waited for: what they started is killed."""
    harness.kill_all()
    os._exit(128 + number)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", dest="pattern", default="")
    parser.add_argument("-v", dest="verbose", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--all", action="store_true", help="every test on every interpreter")
    parser.add_argument("--jobs", type=int, default=min(JOBS_MAX, (os.cpu_count() or 1) + 1),
                        help="lists at a time: one more than CPUs, since half of a test is waiting")
    return parser.parse_args()


def main():
    options = parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    tally, pauses = Tally(options.verbose), []
    build = os.path.join(ROOT, os.environ.get("BUILD", "build"))
    if not os.access(os.path.join(build, "mempulse"), os.X_OK):
        sys.exit("there is no %s/mempulse: run make" % build)
    interpreters, missing = harness.find_interpreters()
    for name in missing:
        if options.pattern in name + ":":
            tally.add(name, "skipped", 0, "this interpreter is missing")
    binary = copy_for_all(build)
    try:
        run_groups(collect(interpreters, options), options.jobs, binary, tally, pauses)
    finally:
        shutil.rmtree(os.path.dirname(binary), ignore_errors=True)
    tell_pauses(pauses)
    print("%d passed, %d failed, %d skipped" % (tally.passed, tally.failed, tally.skipped))
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
