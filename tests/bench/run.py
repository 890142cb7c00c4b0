#!/usr/bin/env python3
"""Every benchmark, into $BUILD/bench/results.json and docs/benchmarks.md.

    run.py [--quick] [--budget MINUTES] [--only SECTION|LOAD,...] [--python X.Y,...] [--report]

Sections, most important first: goals, servers, big, peers, attach, memory, output,
flood, long, depth, threads, rss, mappings, pyperformance, others (the goals on the other
interpreters), profiles. Each measurement is a point: it has a time of its own,
after which it "did not finish", and its row is saved as it comes. When the budget
is spent, what is left is named as not run. A whole run starts anew; with --only or
--python it replaces its own rows. --report only writes the document.

What is missing (an interpreter, a peer, wrk, memory) is skipped by name; nothing is
required but the build."""
import argparse
import collections
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

import bounded
import hotspots
import instructions
import measure
import places
import report
import servers
from bounded import Skip
from measure import Attached, Target

FIRST = ("3.12", "3.11-system", "3.11", "3.8", "3.13")  # where the goals are measured first
CAP = 90             # seconds of a point, unless it says otherwise
QUICK_MINUTES, MINUTES = 5.5, 58
SECTIONS = {}


def section(function):
    """A generator of points: (what, labels, function, arguments[, cap])."""
    SECTIONS[function.__name__.rstrip("_")] = function
    return function


class Python(collections.namedtuple("Python", "version peers")):
    """Among a point's arguments: the interpreter of that virtual environment, which may have to be made."""

    def __new__(cls, version, peers=False):
        return super().__new__(cls, version, peers)


class Run(object):
    """What every section needs: the program, the interpreters, how long to measure."""

    def __init__(self, options):
        self.build = os.path.abspath(os.environ.get("BUILD", os.path.join(measure.HERE, "..", "..", "build")))
        self.program = os.path.join(self.build, "mempulse")
        self.folder = os.path.join(self.build, "bench")
        os.makedirs(self.folder, exist_ok=True)
        self.quick = options.quick
        self.pairs = options.pairs or (2 if options.quick else 3)
        self.few = max(2, self.pairs // 2)
        self.seconds = options.seconds or (0.3 if options.quick else 0.8)
        self.settle = measure.SETTLE if options.quick else 3.0
        self.of = options.of
        self.pythons = {}
        if not options.report:
            self.pythons = places.interpreters(options.python.split(",") if options.python else None)
        self.path = os.path.join(self.folder, "quick.json" if options.quick else "results.json")
        self.budget = bounded.Budget(options.budget or (QUICK_MINUTES if options.quick else MINUTES))
        self.only = options.only.split(",") if options.only else []
        self.venvs = {}
        whole = not (options.only or options.python or options.report)
        self.results = {} if whole else self.load()
        if not options.report:
            self.results["machine"] = places.machine()
            self.results["how"] = {"pairs": self.pairs, "seconds": self.seconds, "settle": self.settle,
                                   "budget": self.budget.minutes}

    def load(self):
        try:
            with open(self.path) as f:
                return json.load(f)
        except (OSError, ValueError):
            return {}

    def python(self, version, peers=False):
        """The interpreter of its virtual environment."""
        if (version, peers) not in self.venvs:
            self.venvs[version, peers] = places.venv(self.folder, version, self.pythons[version], peers)
            versions = self.results.setdefault("versions", {})
            versions[version] = places.packages(self.venvs[version, peers], places.NEEDED + places.PEERS)
        return self.venvs[version, peers]

    def some(self, *versions):
        """Those of the versions that are here; the system's own, which is optimised, comes first."""
        names = [v + "-system" if v + "-system" in self.pythons else v for v in versions]
        return [name for name in names if name in self.pythons]

    def first(self):
        """Where the goals are measured first; the others may wait."""
        names = [v for v in FIRST if v in self.pythons and not (v == "3.11" and "3.11-system" in self.pythons)]
        names = names or list(self.pythons)
        return names[:3] if self.quick else names

    def others(self):
        return [v for v in self.pythons if v not in self.first()]

    def wants(self, name, labels):
        return not self.only or name in self.only or labels.get("goal", labels.get("load")) in self.only

    def save(self, name, row):
        """Its place in the results is that of a former row of the same name."""
        rows = self.results.setdefault(name, [])
        old = [i for i, r in enumerate(rows) if r["what"] == row["what"]]
        rows[old[0] if old else len(rows):(old[0] + 1 if old else len(rows))] = [row]
        self.results["commit"] = row["commit"] = self.of or places.commit()
        with open(self.path + ".new", "w") as f:
            json.dump(self.results, f, indent=1)
        os.replace(self.path + ".new", self.path)

    def measure(self, name):
        """All points of a section, each in its time."""
        for point in SECTIONS[name](self):
            what, labels, function, arguments = point[:4]
            if not self.wants(name, labels):
                continue
            cap = min(point[4] if len(point) > 4 else CAP, self.budget.left())
            if cap < 5:
                row = {"skip": "not run: the %g minutes were over" % self.budget.minutes}
            else:
                row = attempt(what, cap, function, self, *[self.python(*a) if isinstance(a, Python) else a
                                                           for a in arguments])
            row.update(labels, what=what)
            self.save(name, row)


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, flush=True)


def attempt(what, cap, function, *arguments):
    """Runs one measurement; a reason not to is a row too."""
    began = time.monotonic()
    try:
        with bounded.point(cap):
            row = function(*arguments)
        shown = row.get("wall") or row.get("throughput")
        say("%-52s" % what, "%.3f [%.3f %.3f]" % (shown["median"], shown["q1"], shown["q3"]) if shown else "",
            "gave up: %s" % row["gave_up"] if row.get("gave_up") else "",
            "WRONG: %s" % row["wrong"][0] if row.get("wrong") else "")
    except (Skip, OSError, subprocess.SubprocessError, ValueError, IndexError, KeyError, ZeroDivisionError) as reason:
        row = {"skip": report.scrub(str(reason).strip() or type(reason).__name__)}
        say("%-52s" % what, "skipped:", row["skip"][:200])
    row["took_s"] = round(time.monotonic() - began, 1)
    return row


def summarise(found):
    """What the stream said in each window, as one row; and what was wrong with it."""
    wrong = [report.scrub(w) for w in map(Attached.check, found) if w]
    row = {"wrong": wrong[:3], "checked": len(found)}
    row["records"] = sum(f.get("records") or 0 for f in found)
    row["lost"] = sum(f.get("lost") or 0 for f in found)
    row["bytes"] = sum(f["bytes"] for f in found)
    row["watched_s"] = sum(f.get("wall_ns") or 0 for f in found) / 1e9
    row["attributed"] = sum(f.get("known_calls") or 0 for f in found), sum(f["grown"][2] - f["grown"][1] for f in found)
    row["gave_up"] = gave_up(found)
    row["thunk_left"] = sum(not f.get("clean", True) for f in found)
    for name, key in (("own_cost", "cost"), ("overhead", "overhead")):
        costs = [f[key] for f in found if f.get(key) is not None]
        row[name] = measure.spread(costs)["median"] if costs else None
    events = [f["events"] / (f["wall_ns"] / 1e9) for f in found if f.get("events") and f.get("wall_ns")]
    row["events_s"] = measure.spread(events)["median"] if events else None
    row["rollup"] = sum(f.get("rollup_ns") or 0 for f in found) / max(1, sum(f.get("wall_ns") or 0 for f in found))
    row["launcher"] = sum(f["launcher_cpu"] for f in found) / max(0.001, row["watched_s"])
    for key in ("latency", "detach", "pause_us"):
        values = [f[key] for f in found if f[key] is not None]
        row[key] = measure.spread(values) if values else None
    return row


STAGES = ("rollup", "depth", "sampled", "quiet")


def gave_up(found):
    """What the governor gave up, and in how much of the time: "depth to 1 92%"."""
    governors = [f["governor"] for f in found if f.get("governor")]
    total = sum(f.get("wall_ns") or 0 for f in found)
    parts = []
    for i, stage in enumerate(STAGES):  # a later stage keeps what the ones before it gave up
        share = sum(g.get("stage_ns", {}).get(s, 0) for g in governors for s in STAGES[i:]) / max(1, total)
        if share > 0.005:
            how = {"depth": " to %d" % min(g["least_depth"] for g in governors),
                   "sampled": " 1 in %d" % max(g["most_weight"] for g in governors)}.get(stage, "")
            parts.append("%s%s %.0f%%" % (stage, how, 100 * share))
    return ", ".join(parts)


def with_mempulse(run, python, load, args=(), options=(), pairs=None):
    """One row: the load with and without mempulse. Loads with threads of their own need
    more than the one CPU of twins, if it is speed that counts."""
    tool = Attached(run.program, options)
    with contextlib.ExitStack() as stack:
        twins = [stack.enter_context(Target(python, load, args)) for _ in range(1 if load in THREADED else 2)]
        if load in THREADED:
            result = measure.alternate(twins[0], tool, pairs or run.pairs, run.seconds, run.settle)[0]
        else:
            result = measure.crossed_attached(twins, tool, pairs or run.pairs, run.seconds, run.settle)
        result.update(summarise(result.pop("found")))
        result.update(version=twins[0].version, args=list(args), options=list(options))
        return result


THREADED = ("flood",)


# --- the goals ------------------------------------------------------------------------

UNGOVERNED = ("--max-overhead", "0")
EVERY_CALL = ("--depth", "0") + UNGOVERNED  # the governor would sample
IDLE = ("--function", "no_such_function", "--function", "grow_known")
GOAL_LOADS = (  # goal, load, options; the same without a governor is a row of its own
    ("django", "django", ()),
    ("fib", "fib", ()),
    ("fib-through", "fib-through", ()),
    ("methods", "methods", ()),
    ("examples", "examples", ("--depth", "1", "--lines")),
    ("calls", "calls", EVERY_CALL),
    ("idle", "methods", IDLE),
)
BARE_LOADS = ("django", "fib", "fib-through", "methods")


def goal_points(run, versions, pairs=None):
    for goal, load, options in GOAL_LOADS:
        for version in versions:
            yield ("%s %s" % (version, " ".join((load,) + options)), {"python": version, "goal": goal}, with_mempulse,
                   (Python(version), load, (), options, pairs))
    for version in versions:
        yield "%s after detach" % version, {"python": version, "goal": "after"}, after_detach, (Python(version),)
    for load in BARE_LOADS:
        for version in versions:
            yield ("%s %s --max-overhead 0" % (version, load), {"python": version, "goal": load, "bare": True},
                   with_mempulse, (Python(version), load, (), UNGOVERNED, run.few))


@section
def goals(run):
    return goal_points(run, run.first())


@section
def servers_(run):
    for kind in ("gunicorn", "asyncio"):
        for version in run.first()[:2 if run.quick else None]:
            yield ("%s %s" % (version, kind), {"python": version, "goal": kind}, one_server, (Python(version), kind))


def one_server(run, python, kind):
    result = servers.crossed(python, kind, Attached(run.program), 1 if run.quick else 3, 1 if run.quick else 3)
    result.update(summarise(result.pop("found")))
    return result


@section
def big(run):
    for what, args, need in (("8 GiB", (8192, 0), 18), ("20,000 mappings", (0, 20000), 1)):
        for version in run.first()[:2 if run.quick else None]:
            yield ("%s %s" % (version, what), {"python": version, "goal": what}, a_big_one,
                   (Python(version), args, need), 120)


def after_detach(run, python):
    """Twins; one is injected three times. How they differ after it, over how they differed before."""
    with Target(python, "methods") as once, Target(python, "methods") as never:
        twins, windows = (once, never), 4 * run.pairs
        measure.pin(twins)
        before = measure.differ(twins, windows, run.seconds / 2)
        tool = Attached(run.program)
        for _ in range(3):
            tool.begin(once)
            time.sleep(0.2)
            tool.end(once)
        middle = statistics.median(before)
        after = [ratio / middle for ratio in measure.differ(twins, windows, run.seconds / 2)]
        return {"wall": measure.spread(after), "noise": measure.spread([ratio / middle for ratio in before]),
                "twins": True, "instructions": instructions.before_and_after(run.program, python)}


def a_big_one(run, python, args, need_gib, pairs=None):
    if places.free_gib() < need_gib:
        raise Skip("needs %d GiB of free memory" % need_gib)
    return with_mempulse(run, python, "big", args, pairs=pairs)


# --- peers --------------------------------------------------------------------------------

PEERS = ("original-c", "original-py", "memory_profiler", "memray", "tracemalloc", "cprofile", "pyinstrument")
PEER_LOADS = (("django", 3), ("examples", 1), ("fib", 3), ("methods", 3))


@section
def peers(run):
    for load, depth in PEER_LOADS[:1] if run.quick else PEER_LOADS:
        for version in run.some("3.11", "3.12")[:1 if run.quick else None]:
            python = Python(version, True)
            options = ("--depth", "1", "--lines") if load == "examples" else ()
            measured = [("mempulse inject", with_mempulse, (python, load, (), options, run.few))]
            measured += [(peer, inside, (python, load, peer, depth)) for peer in PEERS]
            measured += [("py-spy", attached_py_spy, (python, load)), ("scalene", started, (python, load))]
            for peer, function, args in measured:
                yield ("%s %s %s" % (version, load, peer), {"python": version, "load": load, "peer": peer}, function,
                       args, 60)


def inside(run, python, load, peer, depth):
    with Target(python, load) as target, Target(python, load) as twin:
        return measure.crossed_inside((target, twin), peer, 1, run.seconds, depth)


def attached_py_spy(run, python, load):
    program = places.beside(python, "py-spy")
    with Target(python, load) as target:
        result = measure.alternate(target, measure.PySpy(program), run.few, run.seconds)[0]
        result.pop("found")
        return result


def started(run, python, load):
    """scalene starts the program."""
    prefix = places.scalene_prefix(python, run.folder)
    with Target(python, load) as plain, Target(python, load, prefix=prefix) as tool:
        return measure.alternate_processes(plain, tool, run.few, run.seconds)


# --- attaching -----------------------------------------------------------------------------

@section
def attach(run):
    for version in run.some("3.12", "3.11")[:1 if run.quick else None]:
        ways = (("nothing (noise)", lambda python, pid: time.sleep(0.3)),
                ("mempulse inject -d 200ms", command(run.program, "inject", "-d", "200ms", "-o", "/dev/null", "-p")),
                ("py-spy dump", command("py-spy", "dump", "-p")),
                ("gdb -batch (attach, detach)", command("gdb", "-nx", "-batch", "-p")),
                ("memray attach --method gdb", memray_attach("gdb")),
                ("memray attach --method lldb", memray_attach("lldb")))
        for what, way in ways:
            yield "%s %s" % (version, what), {"python": version, "way": what}, gaps, (Python(version, True), way, 3 if run.quick else 10)
    for what, way in (("nothing (noise)", lambda python, pid: time.sleep(0.3)), ("sys.remote_exec of an empty script", remote_exec)):
        yield "3.14 " + what, {"python": "3.14", "way": what}, gaps_314, (way, 3 if run.quick else 10)


def gaps_314(run, way, times):
    """CPython 3.14, which mempulse refuses, attaches by itself: from a root of another Debian."""
    loader, prefix = places.python_314()
    return gaps(run, loader, way, times, prefix)


def remote_exec(python, pid):
    """Until the script has run in the target."""
    loader, prefix = places.python_314()
    with tempfile.TemporaryDirectory() as folder:
        done, script = os.path.join(folder, "done"), os.path.join(folder, "script.py")
        with open(script, "w") as f:
            f.write("open(%r, 'w').close()\n" % done)
        bounded.run([loader] + prefix + ["-c", "import sys; sys.remote_exec(%d, %r)" % (pid, script)], 30,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 5
        while not os.path.exists(done):
            if time.monotonic() > end:
                raise Skip("the script did not run within 5 s")
            time.sleep(0.001)


def command(program, *arguments):
    """A program of the virtual environment, or of the machine."""
    def way(python, pid):
        path = places.beside(python, program, False) or shutil.which(program)
        if not path:
            raise Skip("%s is not installed" % program)
        done = bounded.run([path] + list(arguments) + [str(pid)], 30, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            raise Skip("exit code %d: %s" % (done.returncode, text.strip()[-200:]))
        return measure.number(r"paused (\d+) us", text)
    return way


def memray_attach(debugger):
    def way(python, pid):
        if not shutil.which(debugger):
            raise Skip("%s is not installed" % debugger)
        output = tempfile.mktemp(".memray")
        command("memray", "attach", "--method", debugger, "-o", output, "--duration", "1")(python, pid)
        time.sleep(1.3)
    return way


def gaps(run, python, way, times, prefix=()):
    """The largest gap inside a busy target around each attach; what the tool itself said."""
    worst, took, pauses = [], [], []
    with Target(python, "gap", prefix=prefix) as target:
        target.settle()
        for _ in range(times):
            time.sleep(0.1)
            start = time.monotonic()
            pause = way(python, target.pid)
            end = time.monotonic()
            time.sleep(0.15)
            window = target.between(start - 0.05, end + 0.1)
            if window.extra is None:
                raise Skip("the target stood still")
            worst.append(window.extra * 1e3)
            took.append((end - start) * 1e3)
            if pause:
                pauses.append(pause)
    return {"gap_ms": measure.spread(worst), "gap_max_ms": max(worst), "took_ms": measure.spread(took),
            "pause_us": measure.spread(pauses) if pauses else None, "wrong": []}


# --- memory, output ---------------------------------------------------------------------------

def ours_of(pid):
    """RSS and private memory in KiB, mappings, and how many threads."""
    with open("/proc/%d/smaps_rollup" % pid) as f:
        text = f.read()
    fields = dict(re.findall(r"^(\w+): +(\d+) kB", text, re.M))
    with open("/proc/%d/maps" % pid) as f:
        maps = len(f.readlines())
    with open("/proc/%d/statm" % pid) as f:
        size = int(f.read().split()[0]) * 4
    return {"rss": int(fields["Rss"]), "private": int(fields["Private_Dirty"]) + int(fields["Private_Clean"]),
            "maps": maps, "size": size, "threads": len(os.listdir("/proc/%d/task" % pid))}


def added(run, python, load, args, options):
    """The target rests (after a batch) while it is looked at; its own growth is known."""
    tool = Attached(run.program, options)
    with Target(python, load, args) as target:
        target.settle()
        time.sleep(0.3)
        before, grown = ours_of(target.pid), target.grown()
        tool.begin(target)
        time.sleep(1.0)
        during, grown_1 = ours_of(target.pid), target.grown()
        tool.end(target)
        time.sleep(0.2)
        after, grown_2 = ours_of(target.pid), target.grown()
        own = target.grow // 1024
        return {"private_kib": during["private"] - before["private"] - (grown_1 - grown) * own,
                "rss_kib": during["rss"] - before["rss"] - (grown_1 - grown) * own,
                "virtual_kib": during["size"] - before["size"] - (grown_1 - grown) * own,
                "maps": during["maps"] - before["maps"], "threads": during["threads"] - before["threads"],
                "after_kib": after["private"] - before["private"] - (grown_2 - grown) * own}


@section
def memory(run):
    for version in run.some("3.12", "3.11", "3.8")[:1 if run.quick else None]:
        for case, load, args, options in (("1 thread, default", "django", (), ()),
                                          ("1 thread, every call", "calls", (), EVERY_CALL),
                                          ("16 threads, default", "spread", (16,), ()),
                                          ("64 threads, default", "spread", (64,), ())):
            yield ("%s memory %s" % (version, case), {"python": version, "case": case}, added,
                   (Python(version), load, args, options), 40)


@section
def output(run):
    """Bytes of a million call records, per format."""
    for version in run.some("3.12", "3.11")[:1]:
        for fmt in ("ndjson", "text"):
            yield ("%s output %s" % (version, fmt), {"python": version, "format": fmt}, bytes_per_million,
                   (Python(version), fmt), 60)


def bytes_per_million(run, python, fmt):
    tool = Attached(run.program, ("-n", "100000") + EVERY_CALL, fmt)
    with Target(python, "django") as target:
        target.settle()
        tool.begin(target)
        said = tool.process.communicate(timeout=40)[1]
        size = os.path.getsize(tool.output)
        os.unlink(tool.output)
        records = measure.number(r"(\d+) records", said)
        return {"bytes_per_million": size / records * 1e6, "records": records}


@section
def flood(run):
    """Every call of n threads recorded: records a second, and what was lost."""
    for version in run.some("3.12", "3.11", "3.8")[:1 if run.quick else None]:
        for n in (4,) if run.quick else (1, 4):
            yield ("%s flood %d threads" % (version, n), {"python": version, "x": n}, with_mempulse,
                   (Python(version), "flood", (n,), EVERY_CALL, 2), 60)


LONG_S = (5, 15, 30, 60, 120, 180, 240, 300)  # when the memory is looked at


@section
def long(run):
    """A flood for minutes: the memory of the launcher, and what the session adds to the target."""
    for version in run.some("3.12")[:0 if run.quick else 1]:
        yield ("%s long flood" % version, {"python": version}, memory_in_time, (Python(version),), LONG_S[-1] + 60)


def resident_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(measure.number(r"VmRSS:\s+(\d+) kB", f.read()))


def memory_in_time(run, python):
    with Target(python, "flood", ("4",)) as target:
        target.settle()
        before, grown = ours_of(target.pid), target.grown()
        launcher = bounded.spawn([run.program, "inject", "-p", str(target.pid), "-d", "%ds" % (LONG_S[-1] + 5), "-f", "ndjson",
                                  "-o", "/dev/null"] + list(EVERY_CALL), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        begin, rows = time.monotonic(), []
        for at in LONG_S:
            time.sleep(max(0.0, begin + at - time.monotonic()))
            added = ours_of(target.pid)["private"] - before["private"] - (target.grown() - grown) * (target.grow // 1024)
            rows.append([at, resident_kib(launcher.pid), added])
        said = launcher.communicate(timeout=30)[1]
        return {"rows": rows, "records": measure.number(r"(\d+) records", said), "lost": measure.number(r"(\d+) lost", said)}


# --- how cost grows -----------------------------------------------------------------------------

def sweep(run, name, versions, points, arguments):
    for version in run.some(*versions):
        for point in points:
            load, args, options, need = arguments(point)
            yield ("%s %s %s" % (version, name, point), {"python": version, "x": point}, a_sweep_point,
                   (Python(version), load, args, options, need), 75)


def a_sweep_point(run, python, load, args, options, need_gib):
    if places.free_gib() < need_gib:
        raise Skip("needs %d GiB of free memory" % need_gib)
    return with_mempulse(run, python, load, args, options, run.few)


@section
def depth(run):
    return sweep(run, "depth", ("3.12", "3.11", "3.8")[:1 if run.quick else None],
                 (1, 2, 3, 5, 10, 20, 0)[:: 3 if run.quick else 1],
                 lambda n: ("chain", (), ("--depth", str(n)) + UNGOVERNED, 0))


@section
def threads(run):
    return sweep(run, "threads", ("3.12", "3.11", "3.8")[:1 if run.quick else None],
                 (1, 64) if run.quick else (1, 2, 4, 16, 64), lambda n: ("spread", (n,), (), 0))


@section
def rss(run):
    return sweep(run, "MiB", ("3.12", "3.11")[:1 if run.quick else None], (0, 512) if run.quick else (0, 192, 2048, 8192),
                 lambda n: ("big", (n, 0), (), n // 512 + 2))


@section
def mappings(run):
    return sweep(run, "mappings", ("3.12", "3.11")[:1 if run.quick else None],
                 (0, 20000) if run.quick else (0, 100, 1000, 5000, 20000), lambda n: ("big", (0, n), (), 1))


# --- a wider choice of loads ----------------------------------------------------------------------

# pyperformance's whose unit is short enough for these windows; a name and the script's arguments
PYPERFORMANCE = (
    "deltablue", "json_dumps", "regex_effbot", "richards", "telco", "logging format", "pickle pickle", "unpack_sequence",
    "chaos", "comprehensions", "coroutines", "deepcopy", "float", "generators", "hexiom", "json_loads", "nbody",
    "nqueens", "raytrace", "regex_v8", "richards_super", "scimark", "spectral_norm", "typing_runtime_protocols",
    "xml_etree", "sqlite_synth", "go")


@section
def pyperformance(run):
    for version in run.some("3.12", "3.13")[:1 if run.quick else None]:
        for name in PYPERFORMANCE[:4] if run.quick else PYPERFORMANCE:
            yield ("%s pyperformance %s" % (version, name), {"python": version, "load": name}, with_mempulse,
                   (Python(version), "pyperformance", name.split(), (), 1), 40)


@section
def others(run):
    """The goals on the interpreters that had to wait."""
    return goal_points(run, [] if run.quick else run.others(), run.few)


# --- where time goes ------------------------------------------------------------------------------

PROFILES = (("3.12", "fib", ()), ("3.11", "fib", ()), ("3.8", "fib", ()), ("3.12", "fib-through", ()),
            ("3.11", "fib-through", ()), ("3.8", "fib-through", ()), ("3.12", "django", ()), ("3.11", "django", ()),
            ("3.8", "django", ()), ("3.12", "examples", ("--depth", "1", "--lines")), ("3.12", "calls", EVERY_CALL),
            ("3.11", "calls", EVERY_CALL), ("3.8", "calls", EVERY_CALL))


@section
def profiles(run):
    """Where the time of an injected target goes."""
    for version, load, options in PROFILES[:2] if run.quick else PROFILES:
        for name in run.some(version):
            yield ("%s profile %s" % (name, " ".join((load,) + options)),
                   {"python": name, "load": load, "options": list(options)}, one_profile,
                   (Python(name), load, options))


def one_profile(run, python, load, options):
    found, samples = hotspots.profile(run.build, python, load, options)
    return {"places": found.most_common(14), "samples": samples}


# --- the run ----------------------------------------------------------------------------------------

QUICK = ("goals", "servers", "big", "flood", "memory", "attach", "pyperformance", "threads")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes; prints the goals' table")
    parser.add_argument("--budget", type=float, help="minutes for all of it (%g, quick %g)" % (MINUTES, QUICK_MINUTES))
    parser.add_argument("--only", help="sections, or loads of any section")
    parser.add_argument("--python", help="interpreters: 3.12, 3.11-system")
    parser.add_argument("--pairs", type=int, help="windows with the tool, each between two without")
    parser.add_argument("--seconds", type=float, help="of a window")
    parser.add_argument("--of", help="the commit that was built, if it is not this tree's last")
    parser.add_argument("--report", action="store_true", help="write the page from the results that are there")
    parser.add_argument("--docs", default=os.path.join(measure.HERE, "..", "..", "docs"))
    return parser.parse_args()


def sections(run):
    named = [name for name in run.only if name in SECTIONS]
    if run.only and len(named) == len(run.only):
        return named
    return [name for name in SECTIONS if name in QUICK or not run.quick or run.only]


def measure_all(run):
    """Whether it came to its end. What breaks in one section does not end the others."""
    whole = True
    try:
        for name in sections(run):
            say("---", name)
            began = time.monotonic()
            try:
                run.measure(name)
            except Exception:
                traceback.print_exc()
                whole = False
            say("--- %s took %.0f s" % (name, time.monotonic() - began))
    except bounded.Stopped as signal:
        say("stopped by %s: what was measured until now is kept" % signal)
        return False
    finally:
        bounded.reap()
    say("all of it took %.0f s" % (60 * run.budget.minutes - run.budget.left()))
    return whole


def main():
    options = parse()
    bounded.stop_on_signals()
    run = Run(options)
    whole = True
    if not options.report:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:  # everybody's, and gone with us
            os.environ["TMPDIR"] = tempfile.tempdir = folder
            whole = measure_all(run)
    if options.quick:
        print(report.quick(run.results))
    else:
        report.write(run.results, options.docs)
    wrong = [row for rows in run.results.values() if isinstance(rows, list) for row in rows if row.get("wrong")]
    for row in wrong:
        print("WRONG %s: %s" % (row["what"], row["wrong"][0]))
    return 1 if wrong or not whole else 0


if __name__ == "__main__":
    sys.exit(main())
