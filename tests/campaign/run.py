#!/usr/bin/python3
"""run.py [--budget MINUTES] [--only STATE,...] [--python NAME,...] [--faults | --beside | --cycles N | --report]
[--jobs N] [--count N] [--slice [-k PATTERN]]: the campaign. BUILD names the folder of the binary.

Puts targets into every state of table.py, on every interpreter found, and injects them
hundreds of times each; results are appended to $BUILD/campaign/results.jsonl as they
come. A run that was stopped goes on where the file ends: the state with the fewest
sessions is always next. Then $BUILD/campaign/reliability.md is written from the whole file
(docs/reliability.md is one that was written with --output). Exits 1 when a target was harmed or a session failed.

--slice is a short look: each state once, on one interpreter in turn, a few
sessions, nothing fetched and no page written; it ends with `N passed, N failed, N skipped`."""
import argparse
import collections
import glob
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "live"))

import beside
import cycles
import harness
import faults
import lap
import report
import setup
import table

FIRST_LAP, LONG_LAP = 12, 300  # sessions: all states soon, then targets that live long
FIRST_SECONDS, LONG_SECONDS = 20, 60
JOBS_PER_CPU = 5
STARTS = 3  # that may be too slow before a cell is given up
SLICE_LAP, SLICE_SECONDS, SLICE_MINUTES = 15, 20, 4
ROOTS = os.environ.get("CAMPAIGN_ROOTS", "/tmp/roots")


class Results:
    """The file of results, and what it says so far."""

    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        self.done = collections.Counter()
        self.laps, self.commit = 0, None
        for row in report.read_rows(path):
            self.note(row)
        self.file = open(path, "a")

    def note(self, row):
        if row["t"] == "session":
            self.done[row["state"], row["python"]] += 1
        self.laps = max(self.laps, row.get("lap", 0))

    def begin(self, run):
        """The head row of a run; its rows say its commit, since several may be in the file."""
        self.add(run)
        self.commit = report.commit_of(run)

    def add(self, row):
        with self.lock:
            self.note(row)
            row = dict(row, commit=self.commit) if self.commit else row
            self.file.write(json.dumps(row, sort_keys=True) + "\n")
            self.file.flush()

    def next_lap(self):
        with self.lock:
            self.laps += 1
            return self.laps


class Schedule:
    """Which cell is next: the one with the fewest sessions that nobody is at."""

    def __init__(self, cells, results):
        self.cells, self.results, self.lock = cells, results, threading.Lock()
        self.taken, self.skipped = set(), set()
        self.slow = collections.Counter()
        self.costly = False
        self.order = {cell: n for n, cell in enumerate(cells)}

    def key(self, cell):
        """What was slow to start comes after those that have had their first lap."""
        return self.results.done[cell[0].name, cell[1].name] + FIRST_LAP * self.slow[cell], self.order[cell]

    def take(self):
        with self.lock:
            free = [c for c in self.cells if c not in self.taken and c not in self.skipped and not (self.costly and c[0].costly)]
            if not free:
                return None
            cell = min(free, key=self.key)
            self.taken.add(cell)
            self.costly = self.costly or cell[0].costly
            return cell

    def give(self, cell, skipped, slow=False):
        """skipped: it is not tried again, when it was only slow after STARTS times."""
        with self.lock:
            self.slow[cell] += slow
            skipped = skipped and not (slow and self.slow[cell] < STARTS)
            self.taken.discard(cell)
            if cell[0].costly:
                self.costly = False
            if skipped:
                self.skipped.add(cell)


def fitting(state, interpreters):
    return [i for i in interpreters if i.kind == state.pythons and (not state.least or i.version >= state.least)]


MISSING = {"venv": "no venv is here: tests/campaign/setup.py FOLDER --packages makes it", "root": "no other root is here: tests/campaign/roots.py makes them"}


def missing(state):
    """Why no interpreter fits."""
    return MISSING.get(state.pythons) or "no interpreter of %d.%d or newer is here" % (state.least or (3, 0))


def cells_of(states, interpreters):
    """Neighbours in the list are of different states and interpreters."""
    found = []
    for shift, state in enumerate(states):
        kind = fitting(state, interpreters)
        found += [((k + shift) % max(1, len(kind)), shift, (state, i)) for k, i in enumerate(kind)]
    return [cell for _, _, cell in sorted(found, key=lambda entry: entry[:2])]


# --- interpreters ----------------------------------------------------------------------------

def dress(interpreter, kind=None, root=None, inside=None):
    interpreter.kind, interpreter.root, interpreter.inside = kind, root, inside
    return interpreter


def version_in(root, python):
    """Of an interpreter that has in that root what targets need. Says why when it can't be had."""
    done = subprocess.run(["chroot", root, python, "-c", "import sys, ctypes, zlib, select, mmap; print(*sys.version_info[:2])"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60)
    harness.check(done.returncode == 0, "%s", done.stderr.decode("utf-8", "replace").strip()[-300:])
    return tuple(map(int, done.stdout.split()))


def lend(root, name, interpreter):
    """An interpreter of this machine's, copied into another root whose own is too new: with that root's C library."""
    prefix = subprocess.check_output([interpreter.path, "-c", "import sys; print(sys.base_prefix)"], timeout=30).decode().strip()
    there = os.path.join(root, prefix.lstrip("/"))
    if not os.path.exists(there):
        shutil.rmtree(there + ".new", ignore_errors=True)
        shutil.copytree(prefix, there + ".new", symlinks=True, ignore=shutil.ignore_patterns("test", "__pycache__", "*.a"))
        os.rename(there + ".new", there)
    return harness.Interpreter(interpreter.path, "root-%s-%d.%d" % ((name,) + interpreter.version), version_in(root, interpreter.path))


def find_roots(lenders):
    """Other roots with a Python of their own; the targets are copied into them. lenders: interpreters for those
    whose own is not supported."""
    found = []
    for name in sorted(os.listdir(ROOTS)) if os.path.isdir(ROOTS) else []:
        root = os.path.join(ROOTS, name)
        if os.geteuid() or not os.path.exists(os.path.join(root, "usr/bin/python3")):
            continue
        inside = "tmp/mempulse-campaign"
        folder = os.path.join(root, inside)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(os.path.join(HERE, "targets"), folder)
        for script in os.listdir(harness.TARGETS):
            if script.endswith(".py"):
                shutil.copy(os.path.join(harness.TARGETS, script), folder)
        here = []
        try:
            here = [harness.Interpreter("/usr/bin/python3", "root-" + name, version_in(root, "/usr/bin/python3"))]
            if here[0].version > lap.NEWEST:
                here += [lend(root, name, i) for i in lenders[-1:]]
        except (OSError, subprocess.SubprocessError, AssertionError) as error:
            print("campaign: %s: no interpreter that runs there: %s" % (name, error), file=sys.stderr)
        found += [dress(i, "root", root, "/%s/campaign.py" % inside) for i in here]
    return found


def interpreters_here(helpers, names):
    found = [dress(i) for i in harness.find_interpreters()[0]]
    for venv in sorted(glob.glob(os.path.join(helpers, "venv*"))):
        found += [dress(i, "venv") for i in [harness.probe(os.path.join(venv, "bin", "python3"), os.path.basename(venv))] if i]
    found += find_roots(sorted((i for i in found if i.kind is None and not i.path.startswith("/usr/")), key=lambda i: i.version))
    return [i for i in found if not names or i.name in names or i.name.replace("py", "") in names]


# --- the machine -------------------------------------------------------------------------------

def first(pattern, path):
    with open(path) as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(pattern)), "unknown")


def git(*words):
    done = subprocess.run(("git", "-C", ROOT) + words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode().strip()


def machine(binary, what):
    return {"t": "run", "what": what, "commit": git("rev-parse", "--short", "HEAD"), "changed": bool(git("status", "--porcelain", "src", "payload", "include")),
            "kernel": platform.release(), "cpu": first("model name", "/proc/cpuinfo"), "cpus": os.cpu_count(),
            "memory_kb": int(first("MemTotal", "/proc/meminfo").split()[0]), "libc": " ".join(platform.libc_ver()),
            "version": subprocess.check_output([binary, "--version"]).decode().strip(), "date": time.strftime("%Y-%m-%d")}


# --- working -----------------------------------------------------------------------------------

class Campaign:
    def __init__(self, options, binary, helpers, folder, results):
        self.options, self.binary, self.helpers, self.folder, self.results = options, binary, helpers, folder, results
        self.deadline = time.monotonic() + 60 * options.budget
        self.bad = self.sessions = 0

    def run_cell(self, cell):
        """One lap. The row that says that this state can't be had here, or None."""
        state, interpreter = cell
        young = self.results.done[state.name, interpreter.name] < FIRST_LAP
        count, seconds = (FIRST_LAP, FIRST_SECONDS) if young else (self.options.count or LONG_LAP, LONG_SECONDS)
        number = self.results.next_lap()
        one = lap.Lap(number, state, interpreter, self.binary, self.helpers, self.folder, count,
                      self.deadline, "%d %s" % (number, time.time()), seconds)
        skip = None
        for row in one.run():
            self.results.add(row)
            self.tell(row)
            skip = row if row["t"] == "skip" else skip
        return skip

    def tell(self, row):
        self.sessions += row["t"] == "session" or row.get("fired", False)
        bad = row.get("failure") or row.get("harms")
        if bad:
            self.bad += 1
            print("%s on %s: %s: %s" % (row["state"], row["python"], row.get("action", "TARGET HARMED"), bad), flush=True)
        if self.options.verbose and row["t"] != "session":
            print(json.dumps(row), flush=True)

    def work(self, schedule):
        while time.monotonic() < self.deadline:
            cell = schedule.take()
            if cell is None:
                if not schedule.taken:
                    return
                time.sleep(0.2)
                continue
            skip = {}
            try:
                skip = self.run_cell(cell)
            finally:
                schedule.give(cell, skip is not None, bool(skip and skip["slow"]))

    def run(self, cells):
        schedule = Schedule(cells, self.results)
        threads = [threading.Thread(target=self.work, args=(schedule,)) for _ in range(self.options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Slice:
    """Each state once."""

    def __init__(self, options, binary, helpers, folder, interpreters):
        self.options, self.binary, self.helpers, self.folder = options, binary, helpers, folder
        self.deadline = time.monotonic() + 60 * SLICE_MINUTES
        self.cells = [cell for cell in self.one_each(interpreters) if options.pattern in self.name(cell)]
        self.faulty = None  # the build with fault points
        self.done = collections.Counter()  # what Schedule orders by: a cell is taken once
        self.counts, self.lock = collections.Counter(), threading.Lock()

    @staticmethod
    def one_each(interpreters):
        for n, state in enumerate(table.STATES):
            kind = fitting(state, interpreters)
            if kind:
                yield state, kind[n % len(kind)]

    def tell_missing(self, interpreters):
        """States that no interpreter here can be put in."""
        for state in table.STATES:
            name = "campaign %s" % state.name
            if not fitting(state, interpreters) and self.options.pattern in name:
                self.counts["skipped"] += 1
                print("%s: skipped (%s)" % (name, missing(state)), flush=True)

    @staticmethod
    def name(cell):
        return "%s: campaign %s" % (cell[1].name, cell[0].name)

    def with_faults(self, binary, interpreters):
        """The fault points in front of the states, in one state of one interpreter; the faults of the output with them."""
        plain = [i for i in interpreters if i.kind is None]
        for n, which in enumerate(faults.SLICES):
            if plain and self.options.pattern in self.name((which, plain[-1 - n])):
                self.faulty = binary
                self.cells.insert(n, (which, plain[-1 - n]))

    def one(self, cell):
        number = self.cells.index(cell) + 1
        if cell[0] in faults.SLICES:
            return faults.slice_lap(cell[0], number, cell[1], self.faulty, self.helpers, self.folder, 1 << 30, self.deadline, number)
        return lap.Lap(number, *cell, self.binary, self.helpers, self.folder, SLICE_LAP, self.deadline, number, SLICE_SECONDS)

    def lap(self, cell):
        one = self.one(cell)
        rows = list(one.run())
        bad = [row["failure"] for row in rows if row.get("failure")] + sum([row.get("harms", []) for row in rows], [])
        skip = [row["why"] for row in rows if row["t"] == "skip"]
        if getattr(one, "points", None):
            skip.append("no time for %d of the points" % len(one.points))
        done = sum(row["t"] in ("session", "fault") for row in rows)
        self.say(cell, "failed" if bad else "skipped" if skip else "passed", bad or skip, done)

    def say(self, cell, how, why, sessions):
        head = {"passed": "ok (%d sessions)" % sessions, "failed": "FAILED"}.get(how) or "skipped (%s)" % why[0].split("\n")[0]
        with self.lock:
            self.counts[how] += 1
            print("%s: %s" % (self.name(cell), head), flush=True)
            for text in why if how == "failed" else ():
                print("  " + text.rstrip().replace("\n", "\n  "), flush=True)

    def work(self):
        while True:
            cell = self.schedule.take()
            if cell is None:
                if not self.schedule.taken:
                    return
                time.sleep(0.2)
            elif time.monotonic() > self.deadline:
                self.say(cell, "skipped", ["no time is left"], 0)
                self.schedule.give(cell, True)
            else:
                try:
                    self.lap(cell)
                except Exception as error:  # a bug of the runner's own fails the state, and not the rest
                    self.say(cell, "failed", ["%s: %s" % (type(error).__name__, error)], 0)
                finally:
                    self.schedule.give(cell, True)

    def run(self):
        self.schedule = Schedule(self.cells, self)
        threads = [threading.Thread(target=self.work) for _ in range(self.options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("%d passed, %d failed, %d skipped" % tuple(self.counts[how] for how in ("passed", "failed", "skipped")))
        return 1 if self.counts["failed"] else 0


def leave(number, frame):
    """Stopped: what was started is killed; the results are in their file."""
    harness.kill_all()
    os._exit(128 + number)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=30, help="minutes")
    parser.add_argument("--only", default="", help="states, with commas; a name of a group too")
    parser.add_argument("--python", default="", help="interpreters, with commas: 3.12, system, venv, venv-3.10, root-NAME")
    parser.add_argument("--jobs", type=int, default=0, help="laps at once; %d a CPU (one with --slice): most of a session is waiting" % JOBS_PER_CPU)
    parser.add_argument("--count", type=int, default=0, help="sessions of a long lap")
    parser.add_argument("--faults", action="store_true", help="the fault points instead of the states (make campaign-faults)")
    parser.add_argument("--beside", action="store_true", help="only the pause, side by side with gdb's")
    parser.add_argument("--cycles", type=int, default=0, help="only so many sessions in one target, for some states and each interpreter")
    parser.add_argument("--slice", action="store_true", help="each state once")
    parser.add_argument("-k", dest="pattern", default="", help="of the slice: only those whose name contains this")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--results", default="", help="the file of results")
    parser.add_argument("--output", default="", help="the page")
    parser.add_argument("-v", dest="verbose", action="store_true")
    options = parser.parse_args()
    options.jobs = options.jobs or (1 if options.slice else JOBS_PER_CPU) * (os.cpu_count() or 1)
    return options


def chosen(only):
    names = [name for name in only.split(",") if name]
    unknown = set(names) - {s.name for s in table.STATES} - {s.group for s in table.STATES}
    if unknown:
        sys.exit("no such state: %s; there are: %s" % (", ".join(unknown), ", ".join(s.name for s in table.STATES)))
    return [s for s in table.STATES if not names or s.name in names or s.group in names]


def main():
    options = parse()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    build = os.path.join(ROOT, os.environ.get("BUILD", "build"))
    helpers = os.path.join(build, "campaign")
    results_path = options.results or os.path.join(helpers, "results.jsonl")
    options.output = options.output or os.path.join(helpers, report.PAGE)
    if options.report:
        report.write(results_path, options.output)
        return 0
    source = os.path.join(build, "faults" if options.faults else "", "mempulse")
    if not os.access(source, os.X_OK):
        sys.exit("there is no %s: run make campaign" % source)
    setup.prepare(helpers, not options.slice)
    folder = tempfile.mkdtemp(prefix="mp-campaign-")
    os.chmod(folder, 0o755)  # some launchers are another user's
    binary = shutil.copy(source, folder)  # a build meanwhile must not change what is tried
    interpreters = interpreters_here(helpers, [n for n in options.python.split(",") if n])
    if options.slice:
        try:
            look = Slice(options, binary, helpers, folder, interpreters)
            faulty = os.path.join(build, "faults", "mempulse")
            if os.access(faulty, os.X_OK):
                look.with_faults(shutil.copy(faulty, os.path.join(folder, "faulty")), interpreters)
            elif options.pattern in "campaign fault points":
                print("campaign fault points: skipped (there is no %s)" % faulty)
                look.counts["skipped"] += 1
            look.tell_missing(interpreters)
            return look.run()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    results = Results(results_path)
    try:
        results.begin(machine(binary, "faults" if options.faults else "beside" if options.beside else "cycles" if options.cycles else "states"))
        campaign = Campaign(options, binary, helpers, folder, results)
        if options.beside:
            for row in beside.rows(binary, interpreters):
                results.add(row)
        elif options.cycles:
            for row in cycles.rows(binary, interpreters, options.cycles):
                results.add(row)
                campaign.tell(row)
        elif options.faults:
            faults.run(campaign, interpreters)
        else:
            campaign.run(cells_of(chosen(options.only), interpreters))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.write(results_path, options.output)
    print("%d sessions, %d failures or harms; %s" % (campaign.sessions, campaign.bad, options.output))
    return 1 if campaign.bad else 0


if __name__ == "__main__":
    sys.exit(main())
