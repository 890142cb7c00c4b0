#!/usr/bin/env python3
"""Every benchmark, into $BUILD/bench/results.json and docs/benchmarks.md.

    run.py [--quick] [--only SECTION,...] [--python X.Y,...] [--report]

Sections: goals, servers, big, peers, attach, memory, depth, threads, rss, mappings,
flood. Each replaces its part of results.json, so that one can be repeated alone.
--report only writes the document from the results that are there. What is missing
(an interpreter, a peer, wrk, memory) is skipped by name; nothing is required but
the build."""
import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time

import hotspots
import measure
import places
import report
import servers
from measure import Attached, Skip, Target

SECTIONS = {}


def section(function):
    SECTIONS[function.__name__] = function
    return function


class Run(object):
    """What every section needs: the program, the interpreters, how long to measure."""

    def __init__(self, options):
        self.build = os.path.abspath(os.environ.get("BUILD", os.path.join(measure.HERE, "..", "..", "build")))
        self.program = os.path.join(self.build, "mempulse")
        self.folder = os.path.join(self.build, "bench")
        os.makedirs(self.folder, exist_ok=True)
        self.pairs = options.pairs or (3 if options.quick else 9)
        self.seconds = options.seconds or (0.3 if options.quick else 1.0)
        self.quick = options.quick
        self.of = options.of
        wanted = options.python.split(",") if options.python else None
        self.pythons = places.interpreters(wanted)
        self.path = os.path.join(self.folder, "quick.json" if options.quick else "results.json")
        self.results = {}
        self.venvs = {}
        if os.path.exists(self.path):
            with open(self.path) as f:
                self.results = json.load(f)

    def python(self, version):
        """The interpreter of its virtual environment."""
        if version not in self.venvs:
            self.venvs[version] = places.venv(self.folder, version, self.pythons[version])
        return self.venvs[version]

    def some(self, *versions):
        """Those of the versions that are here; the system's own, which is optimised, comes first."""
        names = [v + "-system" if v + "-system" in self.pythons else v for v in versions]
        return [name for name in names if name in self.pythons]

    def save(self, name, rows):
        self.results[name] = rows
        self.results["machine"] = places.machine()
        self.results["commit"] = self.of or places.commit()
        with open(self.path + ".new", "w") as f:
            json.dump(self.results, f, indent=1)
        os.replace(self.path + ".new", self.path)


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, flush=True)


def summarise(found):
    """What the stream said in each window, as one row; and what was wrong with it."""
    wrong = [w for w in map(Attached.check, found) if w]
    row = {"wrong": wrong[:3], "checked": len(found)}
    records = sum(f.get("records") or 0 for f in found)
    row["records"] = records
    row["lost"] = sum(f.get("lost") or 0 for f in found)
    row["bytes"] = sum(f["bytes"] for f in found)
    row["watched_s"] = sum(f.get("wall_ns") or 0 for f in found) / 1e9
    row["attributed"] = sum(f.get("known_calls") or 0 for f in found), sum(f["grown"][2] - f["grown"][1] for f in found)
    costs = [f["cost"] for f in found if f.get("cost") is not None]
    row["own_cost"] = measure.spread(costs)["median"] if costs else None
    events = [f["events"] / (f["wall_ns"] / 1e9) for f in found if f.get("events") and f.get("wall_ns")]
    row["events_s"] = measure.spread(events)["median"] if events else None
    row["rollup"] = sum(f.get("rollup_ns") or 0 for f in found) / max(1, sum(f.get("wall_ns") or 0 for f in found))
    row["launcher"] = sum(f["launcher_cpu"] for f in found) / max(0.001, row["watched_s"])
    for key in ("latency", "detach", "pause_us"):
        row[key] = measure.spread([f[key] for f in found if f[key] is not None])
    return row


def with_mempulse(run, python, load, args=(), options=(), pairs=None, fmt="ndjson"):
    """One row: the load with and without mempulse, in one process."""
    with Target(python, load, args) as target:
        result, plain, tool = measure.alternate(target, Attached(run.program, options, fmt), pairs or run.pairs,
                                                run.seconds)
        found = result.pop("found")
        result.update(summarise(found) if fmt == "ndjson" else {"bytes": sum(f["bytes"] for f in found)})
        result.update(version=target.version, load=load, args=list(args), options=list(options))
        return result


def attempt(rows, what, function, *args, **kwargs):
    """Runs one measurement; a reason not to is a row too."""
    try:
        row = function(*args, **kwargs)
        shown = row.get("wall") or row.get("throughput")
        say("%-44s" % what, "%.3f [%.3f %.3f]" % (shown["median"], shown["q1"], shown["q3"]) if shown else "",
            "WRONG: %s" % row["wrong"][0] if row.get("wrong") else "")
    except (Skip, OSError) as reason:
        row = {"skip": str(reason).strip()}
        say("%-44s" % what, "skipped:", row["skip"][:200])
    row["what"] = what
    rows.append(row)
    return row


# --- the goals ------------------------------------------------------------------------

EVERY_CALL = ("--depth", "0", "--max-overhead", "0")  # the governor would sample

GOAL_LOADS = (  # load, options
    ("django", ()),
    ("examples", ("--depth", "1", "--lines")),
    ("fib", ()),
    ("methods", ()),
    ("calls", EVERY_CALL),
)


@section
def goals(run):
    rows = []
    for version in run.pythons:
        python = run.python(version)
        for load, options in GOAL_LOADS:
            row = attempt(rows, "%s %s" % (version, " ".join((load,) + options)), with_mempulse, run, python, load,
                          options=options)
            row.update(python=version, goal=load)
        row = attempt(rows, "%s idle (nothing in scope)" % version, with_mempulse, run, python, "methods",
                      options=("--function", "no_such_function", "--function", "grow_known"))
        row.update(python=version, goal="idle")
        row = attempt(rows, "%s after detach" % version, after_detach, run, python)
        row.update(python=version, goal="after")
    return rows


def after_detach(run, python):
    """Two processes; one was injected three times before. Their ratio, over the same
    ratio before, so that a difference between the processes cancels out."""
    with Target(python, "methods") as never, Target(python, "methods") as once:
        before = measure.alternate_processes(never, once, run.pairs // 2 + 1, run.seconds / 2)
        tool = Attached(run.program)
        for _ in range(3):
            tool.begin(once)
            time.sleep(0.2)
            tool.end(once)
        after = measure.alternate_processes(never, once, run.pairs, run.seconds)
        row = {}
        for key in ("wall", "cpu"):
            row[key] = {k: v if k == "n" else v / before[key]["median"] for k, v in after[key].items()}
        row["noise"] = before["wall"]
        return row


@section
def servers_(run):
    rows = []
    for version in run.pythons:
        for kind in ("asyncio", "gunicorn"):
            row = attempt(rows, "%s %s" % (version, kind), one_server, run, run.python(version), kind)
            row.update(python=version, goal=kind)
    return rows


SECTIONS["servers"] = SECTIONS.pop("servers_")


def one_server(run, python, kind):
    result = servers.alternate(python, kind, Attached(run.program), 1 if run.quick else 2, 1)
    result.update(summarise(result.pop("found")))
    return result


@section
def big(run):
    rows = []
    for version in run.some("3.8", "3.11", "3.12"):
        for what, args, need in (("8 GiB", (8192, 0), 11), ("20,000 mappings", (0, 20000), 1)):
            row = attempt(rows, "%s %s" % (version, what), a_big_one, run, run.python(version), args, need)
            row.update(python=version, goal=what)
    return rows


def a_big_one(run, python, args, need_gib, pairs=None):
    if places.free_gib() < need_gib:
        raise Skip("needs %d GiB of free memory" % need_gib)
    return with_mempulse(run, python, "big", args, pairs=pairs)


# --- peers --------------------------------------------------------------------------------

PEERS = ("original-c", "original-py", "cprofile", "tracemalloc", "memray", "memory_profiler", "pyinstrument")
PEER_LOADS = (("django", 3), ("examples", 1), ("fib", 3))


@section
def peers(run):
    rows = []
    for version in run.some("3.11", "3.12"):
        python = places.venv(run.folder, version, run.pythons[version], peers=True)
        for load, depth in PEER_LOADS[:1] if run.quick else PEER_LOADS:
            pairs = max(2, run.pairs // 2)
            options = ("--depth", "1", "--lines") if load == "examples" else ()
            measured = [("mempulse inject", with_mempulse, (run, python, load, (), options, pairs))]
            measured += [(peer, inside, (run, python, load, peer, depth, pairs)) for peer in PEERS]
            measured += [("py-spy", attached_py_spy, (run, python, load, pairs)),
                         ("scalene", started, (run, python, load, pairs))]
            for peer, function, args in measured:
                row = attempt(rows, "%s %s %s" % (version, load, peer), function, *args)
                row.update(python=version, load=load, peer=peer)
    return rows


def inside(run, python, load, peer, depth, pairs):
    with Target(python, load) as target:
        return measure.alternate_inside(target, peer, pairs, run.seconds, depth)


def attached_py_spy(run, python, load, pairs):
    program = places.beside(python, "py-spy")
    with Target(python, load) as target:
        result = measure.alternate(target, measure.PySpy(program), pairs, run.seconds)[0]
        result.pop("found")
        return result


def started(run, python, load, pairs):
    """scalene starts the program."""
    prefix = places.scalene_prefix(python, run.folder)
    with Target(python, load) as plain, Target(python, load, prefix=prefix) as tool:
        return measure.alternate_processes(plain, tool, pairs, run.seconds)


# --- attaching -----------------------------------------------------------------------------

@section
def attach(run):
    rows = []
    for version in run.some("3.11", "3.12"):
        python = places.venv(run.folder, version, run.pythons[version], peers=True)
        ways = (("nothing (noise)", lambda pid: time.sleep(0.3)),
                ("mempulse inject -d 200ms", command([run.program, "inject", "-d", "200ms", "-o", "/dev/null", "-p"])),
                ("py-spy dump", command([places.beside(python, "py-spy", False), "dump", "-p"])),
                ("gdb -batch (attach, detach)", command([shutil.which("gdb"), "-nx", "-batch", "-p"])),
                ("memray attach (gdb)", memray_attach(python)))
        for what, way in ways:
            row = attempt(rows, "%s %s" % (version, what), gaps, python, way, 3 if run.quick else 10)
            row.update(python=version, way=what)
            if "gap_ms" in row:
                say("   largest gap %.1f ms (median), took %.0f ms" % (row["gap_ms"]["median"], row["took_ms"]["median"]))
    return rows


def command(argv):
    def run_it(pid):
        if not argv[0]:
            raise Skip("not installed")
        done = subprocess.run(argv + [str(pid)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60)
        if done.returncode:
            raise Skip("exit code %d: %s" % (done.returncode, done.stdout.decode("utf-8", "replace").strip()[-200:]))
        return measure.number(r"paused (\d+) us", done.stdout.decode("utf-8", "replace"))
    return run_it


def memray_attach(python):
    program = places.beside(python, "memray", False)

    def run_it(pid):
        if not program or not shutil.which("gdb"):
            raise Skip("not installed")
        output = os.path.join(os.environ.get("TMPDIR", "/tmp"), "bench-%d-%d.memray" % (pid, time.monotonic_ns()))
        command([program, "attach", "--method", "gdb", "-o", output, "--duration", "1"])(pid)
        time.sleep(1.3)
        if os.path.exists(output):
            os.unlink(output)
    return run_it


def gaps(python, way, times):
    """The largest gap inside a busy target around each attach; what the tool itself said."""
    worst, took, pauses = [], [], []
    with Target(python, "gap") as target:
        target.settle()
        for _ in range(times):
            time.sleep(0.1)
            start = time.monotonic()
            pause = way(target.pid)
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

@section
def memory(run):
    rows = []
    for version in run.some("3.8", "3.11", "3.12"):
        for what, load, args, options in (("1 thread, default", "django", (), ()),
                                          ("1 thread, every call", "calls", (), EVERY_CALL),
                                          ("16 threads, default", "spread", (16,), ()),
                                          ("64 threads, default", "spread", (64,), ())):
            row = attempt(rows, "%s memory %s" % (version, what), added, run, run.python(version), load, args, options)
            row.update(python=version, case=what)
    return rows


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
def output(run):
    """Bytes of a million call records, per format."""
    rows = []
    for version in run.some("3.12", "3.11")[:1]:
        for fmt in ("ndjson", "text"):
            python = run.python(version)
            row = attempt(rows, "%s output %s" % (version, fmt), bytes_per_million, run, python, fmt)
            row.update(python=version, format=fmt)
    return rows


def bytes_per_million(run, python, fmt):
    tool = Attached(run.program, ("-n", "100000") + EVERY_CALL, fmt)
    with Target(python, "django") as target:
        target.settle()
        tool.begin(target)
        said = tool.process.communicate(timeout=measure.PATIENCE)[1]
        size = os.path.getsize(tool.output)
        os.unlink(tool.output)
        records = measure.number(r"(\d+) records", said)
        return {"bytes_per_million": size / records * 1e6, "records": records}


# --- how cost grows -----------------------------------------------------------------------------

def sweep(run, name, versions, points, arguments):
    rows = []
    for version in run.some(*versions):
        for point in points:
            load, args, options, need = arguments(point)
            if places.free_gib() < need:
                rows.append({"skip": "needs %d GiB" % need, "python": version, "x": point})
                continue
            row = attempt(rows, "%s %s %s" % (version, name, point), with_mempulse, run, run.python(version), load,
                          args, options, max(2, run.pairs // 2))
            row.update(python=version, x=point)
    return rows


@section
def depth(run):
    return sweep(run, "depth", ("3.8", "3.11", "3.12"), (1, 2, 3, 5, 10, 20, 0)[:: 2 if run.quick else 1],
                 lambda n: ("chain", (), ("--depth", str(n), "--max-overhead", "0"), 0))


@section
def threads(run):
    return sweep(run, "threads", ("3.8", "3.11", "3.12"), (1, 64) if run.quick else (1, 2, 4, 16, 64),
                 lambda n: ("spread", (n,), (), 0))


@section
def rss(run):
    return sweep(run, "MiB", ("3.11", "3.12")[:1 if run.quick else 2], (0, 512) if run.quick else (0, 192, 2048, 8192),
                 lambda n: ("big", (n, 0), (), n // 1024 + 3))


@section
def mappings(run):
    return sweep(run, "mappings", ("3.11", "3.12")[:1 if run.quick else 2],
                 (0, 20000) if run.quick else (0, 1000, 5000, 20000), lambda n: ("big", (0, n), (), 1))


@section
def flood(run):
    """Every call of n threads recorded: records a second, and what was lost."""
    rows = []
    for version in run.some("3.8", "3.11", "3.12"):
        for n in (1, 4):
            row = attempt(rows, "%s flood %d threads" % (version, n), with_mempulse, run, run.python(version), "flood",
                          (n,), EVERY_CALL, 2)
            row.update(python=version, x=n)
    return rows


PROFILES = (("3.12", "fib", ()), ("3.11", "fib", ()), ("3.8", "fib", ()), ("3.12", "django", ()), ("3.11", "django", ()),
            ("3.12", "calls", EVERY_CALL), ("3.11", "calls", EVERY_CALL))


@section
def profiles(run):
    """Where the time of an injected target goes."""
    rows = []
    for version, load, options in PROFILES[:2] if run.quick else PROFILES:
        for name in run.some(version):
            row = attempt(rows, "%s profile %s" % (name, " ".join((load,) + options)), one_profile, run,
                          run.python(name), load, options)
            row.update(python=name, load=load, options=list(options))
    return rows


def one_profile(run, python, load, options):
    found, samples = hotspots.profile(run.build, python, load, options)
    return {"places": found.most_common(14), "samples": samples}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--pairs", type=int, help="windows with the tool, each between two without")
    parser.add_argument("--seconds", type=float, help="of a window")
    parser.add_argument("--python")
    parser.add_argument("--of", help="the commit that was built, if it is not this tree's last")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--docs", default=os.path.join(measure.HERE, "..", "..", "docs"))
    options = parser.parse_args()
    run = Run(options)
    if not options.report:
        started_at = time.monotonic()
        for name in options.only.split(",") if options.only else SECTIONS:
            say("---", name)
            began = time.monotonic()
            rows = SECTIONS[name](run)
            run.save(name, rows)
            say("--- %s took %.0f s" % (name, time.monotonic() - began))
        say("all of it took %.0f s" % (time.monotonic() - started_at))
    if options.quick:
        print(report.text(run.results))
    else:
        report.write(run.results, options.docs)
    wrong = [row for rows in run.results.values() if isinstance(rows, list) for row in rows if row.get("wrong")]
    for row in wrong:
        print("WRONG %s: %s" % (row["what"], row["wrong"][0]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
