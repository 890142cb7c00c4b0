#!/usr/bin/env python3
"""Tests the agent inside each CPython found, without injection.

    tests/agent/run.py [AGENT_SO] [--only VERSION] [--test NAME]

Prints one line a failure and `N passed, N failed` at the end."""
import argparse
import atexit
import concurrent.futures
import glob
import itertools
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import wire  # noqa: E402

TESTS = []
JOBS = 3              # interpreters at once: a test mostly waits
FEW_REFUSED = 20      # an agent makes 30 allocations of Python's to come and go, and 80 from 3.12 on
CYCLES_SECONDS = 120  # mostly 3: the driver is one of seven threads that want the GIL
DUMP_SECONDS = 20     # before that limit a cycles.py prints its threads' stacks


def test(scenario=None, since=(3, 6), before=(3, 99), needs=None, **options):
    def add(f):
        TESTS.append((f.__name__, scenario or f.__name__, f, since, before, needs, options))
        return f
    return add


class Run:
    """One interpreter, one scenario, from start to exit."""

    def __init__(self, python, agent, scenario, options, lease=False, detach=True, drive=None):
        """drive(session): a generator of lines for the scenario, None while there is nothing to say."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.session = s = wire.Session()
        self.child = subprocess.Popen([python, "-u", os.path.join(HERE, "host.py"), agent, str(theirs.fileno()), scenario],
                                      pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE)
        theirs.close()
        ours.sendall(wire.go(**options))
        self.first = self.second = None
        driver = drive(s) if drive else iter(())
        out, end, asked = b"", time.time() + 40, False
        fds = {ours.fileno(): ours, self.child.stdout.fileno(): self.child.stdout}
        while fds and time.time() < end:
            for fd in select.select(list(fds), [], [], 1)[0]:
                try:
                    data = os.read(fd, 1 << 18)
                except ConnectionError:
                    data = b""
                if not data:
                    del fds[fd]
                elif fd == ours.fileno():
                    s.feed(data)
                else:
                    out += data
            said = next(driver, None)
            if said:
                self.child.stdin.write(said.encode())
                self.child.stdin.flush()
            lines = out.decode().split("\n")[:-1]
            lines = [json.loads(x) for x in lines if x.startswith("{")]
            if lines and not asked:
                asked = True
                self.first = lines[0]
                if lease:
                    ours.close()
                    fds.pop(ours.fileno(), None)
                    fds = {f: o for f, o in fds.items() if f != -1 and o is not ours}
                elif s.bye is None:
                    ours.sendall(wire.frame(wire.DETACH))
                self.child.stdin.write(b"go\n")
                self.child.stdin.flush()
            if len(lines) > 1:
                self.second = lines[1]
        if time.time() >= end:
            self.child.kill()
        self.stderr = self.child.stderr.read().decode(errors="replace")
        self.status = self.child.wait()

    def clean(self, residue=0):
        s, f = self.session, self.second
        assert self.status == 0, "exit %d: %s" % (self.status, self.stderr[-600:])
        assert f, "no account: " + self.stderr[-600:]
        assert f["ret"] == 0 and f["state"] == (5 if residue else 4), f
        assert f["work"] == 20 * 144
        assert s.bye, "no BYE"
        assert s.bye.residue == residue, s.bye
        assert f["fds"] == 0, "descriptors left: %r" % f["fds"]
        if not residue:
            assert not f["maps"], "mappings left: %r" % f["maps"]
        if s.hooked:
            for k in "eval profile trace tools".split():
                assert s.bye.slots[k] == s.hooked[k], (k, s.hooked, s.bye.slots)


def check_basic(run, **kw):
    s = run.session
    assert s.failed is None, s.failed
    assert run.first and run.first["hooked"], run.stderr[-600:]
    assert s.order[:3] == [wire.HELLO, wire.SELFTEST, wire.HOOKED] and s.order[-1] == wire.BYE
    assert s.bye.reason == 1 and s.bye.records == len(s.records) + s.lost, (s.bye, len(s.records), s.lost)
    assert s.lost == 0
    run.clean(**kw)


@test()
def growth(run):
    check_basic(run)
    s = run.session
    assert s.selftest.minflt_error == 0 and s.selftest.flags & 3 == 3, s.selftest
    g, m, i = s.calls("grower"), s.calls("middle"), s.calls("idle")
    assert (len(g), len(m), len(i)) == (10, 10, 10), (len(g), len(m), len(i))
    assert {r.depth for r in m} | {r.depth for r in i} == {g[0].depth - 1}, "depths"
    for r in g[1:]:
        assert 100 <= r.own <= 102, r
        assert 100 + s.selftest.statm_error <= r.rss_delta <= 104, r
    for r in i[1:]:
        assert r.own == 0 and r.rss_delta == 0, r
    for r in s.calls():
        assert r.flags & (wire.HAS_RSS | wire.HAS_OWN | wire.HAS_PEAK) == 19 and not r.flags & wire.RAISED, r
        assert r.dur < 10**9 and r.peak >= r.rss * 4096 - (1 << 20)  # ru_maxrss lags
    main = s.threads[g[0].thread]
    assert main.flags & 1 and main.name == "MainThread", main
    c = s.codes[g[0].code]
    assert c.file.endswith("scenarios.py") and c.module == "scenarios" and c.line > 10 and c.name == "grower"


@test(since=(3, 12))
def settles(run):
    check_basic(run)
    events = run.session.stats[-1].events
    assert events < 100000, "what was near to the deep base is switched off later: %d" % events


@test(since=(3, 11), before=(3, 12))
def rests(run):
    check_basic(run)
    s = run.session
    assert len(s.calls("middle")) == 50, "it came back each time: %d" % len(s.calls("middle"))
    assert len(s.calls("nest")) == 50 * 2, len(s.calls("nest"))
    assert s.stats[-1].events < 50 * 60, "most calls are inlined again: %d" % s.stats[-1].events


@test(since=(3, 11), before=(3, 12))
def rests_not(run):
    check_basic(run)
    s = run.session
    assert len(s.calls("middle")) == 50, len(s.calls("middle"))
    assert s.stats[-1].events > 50 * 200, "with a second thread it stays: %d" % s.stats[-1].events


@test(depth=4)
def inits(run):
    check_basic(run)
    s = run.session
    # depth 1 is the scenario itself
    for depth, names in (2, ["make_thing"]), (3, ["__init__", "Thing.__init__"]), (4, ["leaf"]):
        calls = [r for r in s.records if r.name in names]
        assert len(calls) == 300 and {r.depth for r in calls} == {depth}, (names, len(calls), {r.depth for r in calls})


@test(since=(3, 12))
def fades(run):
    check_basic(run)
    s = run.session
    seen = s.calls("far")
    assert 0 < len(seen) <= 100, "after a round it is seen, till then not: %d" % len(seen)
    # It has been seen within the depth: from then on each of its calls counts.
    assert 200000 < s.stats[-1].events < 300000, s.stats[-1].events
    assert not s.calls("far_calls")


@test(since=(3, 12))
def rotates(run):
    """Functions share the places in which their calls below the depth are counted: those
    that take turns may not keep each other from being switched off. Each has 64 events,
    and 4 in each of some rounds."""
    check_basic(run)
    assert run.session.stats[-1].events < 1500 * 130, run.session.stats[-1].events


@test(since=(3, 12))
def unwinds(run):
    """An exception that leaves a function is an event each time, and no switching off; it
    has a price of its own."""
    check_basic(run)
    last = run.session.stats[-1]
    assert last.events >= 20000, last.events
    raised = 20000 * (90 + 150)
    floor = run.session.bye.account.floor
    assert last.hook_ns >= floor >= raised, "%d ns, of it %d by presence, for %d events" % (last.hook_ns, floor, last.events)
    assert floor < raised + 3000 * 1000, "%d ns for functions that were switched off" % floor


@test()
def calm(run):
    """statm is not read at each edge of a function of which nothing of note was seen, but
    what a function gives back is still seen where it happens."""
    check_basic(run)
    edges = 2 * 2000
    reads = run.first["result"]
    spent = sum(r.dur for r in run.session.calls("steady")[-2020:-20]) / 1e9
    assert 0 < reads < edges / 4, "%d readings for %d edges in %.2f s" % (reads, edges, spent)
    given = run.session.calls("giver")
    assert len(given) == 20 and all(r.own == 0 and -21 <= r.rss_delta <= -20 for r in given), given


@test("growers", ppm=4000000000)
def growth_uss(run):
    """Pages of files are private as long as no other process maps them, so one that starts
    or ends beside us may move a reading (by 3 MiB when it is the same interpreter: measured);
    most are not moved."""
    check_basic(run)
    calls = [r for r in run.session.calls() if re.search(r"grower\d$", r.name)]
    deltas = sorted(r.uss_delta for r in calls if r.flags & (wire.HAS_USS | wire.HAS_USS_DELTA) == 12)
    assert len(deltas) == len(calls) == 9, (len(deltas), len(calls))
    assert 409600 - 65536 < deltas[len(deltas) // 2] < 480000, deltas
    assert run.session.stats[-1].rollup_ns > 0


@test(before=(3, 12), depth=4)
def own_state(run):
    """A fork that comes while PyGILState_Ensure makes a thread state hangs its child: it is not
    called at all (its address is 0), nor is it where tracemalloc asks whose thread this is."""
    check_basic(run)
    assert len(run.session.calls("grower")) == 10
    assert run.first["result"] >= 0, run.first


@test("starved_install")
def starved_install(run):
    """No memory for a thread state when it installs: it gives up, in bounded time."""
    assert run.session.failed and run.session.failed[:2] == (6, 12) and "PyThreadState_New" in run.session.failed[2], run.session.failed
    assert run.session.hooked is None and run.second["leave_ms"] < 5000, run.second
    run.clean()


@test("ends_meanwhile", since=(3, 7))
def ends_meanwhile(run):
    """An interpreter that ends while memory is waited for: that is the cause, and is told."""
    assert run.session.failed and run.session.failed[0] == 1, run.session.failed
    assert run.session.hooked is None and run.second["leave_ms"] < 5000, run.second
    run.clean()


@test(depth=4)
def starved_exits(run):
    """An interpreter that ends has no thread state to give: nothing of it is touched any more."""
    assert run.status == 3, (run.status, run.stderr[-300:])
    assert run.session.bye, "it waits for ever"


@test(depth=6)
def starved(run):
    """The same in mid-session, when it goes on without names, and while it leaves: then it waits, and says so."""
    assert run.second["after"] == [3, 1, 0], run.second
    assert run.session.bye.reason == 1, run.session.bye
    assert len(run.session.calls("grower")) == 10, len(run.session.calls("grower"))
    assert "comes-meanwhile" in {t.name for t in run.session.threads.values()}, "its name was not asked for again"
    run.clean()


@test("growth", ppm=100000000, flags=wire.OPT_NO_ROLLUP)
def growth_no_rollup(run):
    check_basic(run)
    assert not any(r.flags & wire.HAS_USS for r in run.session.records) and not run.session.selftest.flags & 2


@test("growth", depth=1)
def growth_depth1(run):
    check_basic(run)
    # the scenario itself runs at base + 1
    assert not run.session.calls("grower") and not run.session.calls("middle")


@test("growth", root=["middle"], depth=1)
def growth_root(run):
    check_basic(run)
    s = run.session
    assert [r.depth for r in s.calls("middle")] == [0] * 10
    assert [r.depth for r in s.calls("grower")] == [1] * 10
    assert not s.calls("idle") and len(s.records) == 20, {r.name for r in s.records}
    assert s.codes[s.calls("middle")[0].code].flags & 2


@test("growth", root=["growth"], depth=5, function=["gro*"], exclude=["mid*"])
def growth_scope(run):
    check_basic(run)
    s = run.session
    assert {r.name for r in s.records} == {"growth", "grower"}, {r.name for r in s.records}
    assert {r.depth for r in s.calls("grower")} == {2}


@test("growth", depth=5, module=["scenarios"], min_bytes=100000)
def growth_min_bytes(run):
    check_basic(run)
    s = run.session
    assert {r.name for r in s.records} == {"growth", "grower", "middle"}, {r.name for r in s.records}
    assert s.stats[-1].filtered >= 10


@test("deep", root=["level"], depth=2)
def deep_root(run):
    check_basic(run)
    assert len(run.session.records) == 5 * 31 and {r.depth for r in run.session.records} == {0}


@test("deep", root=["deep"], depth=4)
def deep(run):
    check_basic(run)
    s = run.session
    assert sorted(r.depth for r in s.records) == sorted([0] + [1, 2, 3, 4] * 5)


@test("kinds", root=["kinds"], depth=6)
def kinds(run):
    check_basic(run)
    s = run.session
    assert {r.depth for r in s.calls("catcher")} == {1} and {r.depth for r in s.calls("raiser")} == {2}
    assert all(r.flags & wire.RAISED for r in s.calls("raiser")) and len(s.calls("raiser")) == 20
    assert {r.depth for r in s.calls("idle")} == {1}
    runs = [r for r in s.calls("gen") if r.depth == 2]
    assert len(runs) >= 20 * 5 and all(s.codes[r.code].flags & 1 for r in runs)
    assert len(s.calls("fib")) == 20 * 25, len(s.calls("fib"))
    assert max(r.depth for r in s.calls("fib")) == 6


@test("asyncs", root=["asyncs"], depth=30)
def asyncs(run):
    check_basic(run)
    s = run.session
    assert {r.depth for r in s.calls("idle")} == {1}, {r.depth for r in s.calls("idle")}
    leaf, job = {r.depth for r in s.calls("leaf")}, {r.depth for r in s.calls("job")}
    assert len(s.calls("leaf")) == 60 and leaf and job and min(leaf) > min(job), (leaf, job)


@test()
def threads(run):
    check_basic(run)
    s = run.session
    tasks = s.calls("worker_task")
    assert len(tasks) == 26 and len({r.thread for r in tasks}) == 25, len(tasks)
    for r in tasks:
        assert r.depth == (1 if "namé" not in s.threads[r.thread].name else 2), (r, s.threads[r.thread])
    own = sorted(r.own for r in s.calls("grower"))
    want = sorted([10 + i for i in range(8)] * 3 + [5, 6])
    assert all(a <= b <= a + 3 for a, b in zip(want, own)), own
    assert any(t.name == "namé-\ufffdx" for t in s.threads.values()), [t.name for t in s.threads.values()]


@test(root=["churn"], depth=2)
def churn(run):
    check_basic(run)
    s = run.session
    calls = [r for r in s.calls() if r.name.startswith("f_")]
    assert len(calls) == 400
    for i, r in enumerate(calls):
        c = s.codes[r.code]
        assert c.name == "f_%d" % (i % 100) and c.file == "<churn %d>" % (i % 100) and c.module == "churn", (i, c)
    assert len([c for c in s.codes.values() if c.name.startswith("f_")]) == 100


@test(depth=8, needs="greenlet")
def greens(run):
    check_basic(run)
    s = run.session
    assert run.first["result"] == 40
    step, grow = s.calls("step"), s.calls("grower")
    assert len(step) == 160 and len(grow) == 160, (len(step), len(grow))
    assert len({r.depth for r in step}) == 1 and {r.depth for r in grow} == {step[0].depth + 1}
    assert len(s.calls("switcher")) == 40 and {r.depth for r in s.calls("switcher")} == {step[0].depth - 1}
    assert len(s.calls("idle")) == 1


@test(depth=5)
def forks(run):
    check_basic(run)
    assert run.first["result"] == [7, 7, 7], run.first


@test(before=(3, 12), flags=wire.OPT_LINES, depth=1)
def forks_below(run):
    assert run.first and run.first["result"] == [7, 7, 7], (run.first, run.stderr[-600:])
    run.clean()


@test()
def forkcure(run):
    check_basic(run)
    assert run.first["result"] == ["[%d, True, True, None]" % r for r in (6, 1, 1)], run.first["result"]
    assert len(run.session.calls("idle")) == 1


@test(depth=2, min_time=10**9)
def busy(run):
    check_basic(run)
    assert run.session.stats[-1].events > 1000


@test()
def held(run):
    s = run.session
    check_basic(run, residue=0 if run.minor >= 12 else 1)
    again, cured, work = run.second["after"]
    assert work == 55 and cured["reason"] == 6 and cured["residue"] == 0, cured
    if run.minor < 12:
        assert s.bye.inflight > 0 and again["residue"] == 1 and again["inflight"] >= s.bye.inflight


@test(since=(3, 9), before=(3, 12))
def chained(run):
    check_basic(run)
    assert run.first["result"] is True and run.second["after"] is True
    assert [n[0] for n in run.session.notes] == [2] and len(run.session.calls("grower")) == 1


def check_above(run):
    """Another tool stands above us when we leave, and when the next one comes; then it goes."""
    s = run.session
    assert run.status == 0 and s.bye.residue & 2, (run.stderr[-300:], s.bye)
    again, cured, default = run.second["after"]
    assert again["residue"] & 2 and cured["reason"] == 6 and cured["residue"] == 0 and default, (again, cured)
    assert len(s.calls("grower")) == 1


@test(since=(3, 9), before=(3, 12))
def topped(run):
    check_above(run)


@test(since=(3, 9), before=(3, 12))
def circled(run):
    """A tool whose function was there puts it into the slot again, above ours, which calls it."""
    check_above(run)
    assert run.first["result"] is True, run.first


@test(since=(3, 9), before=(3, 12))
def toggled(run):
    """A thunk that may still be called, but is not, keeps nobody from hooking."""
    s = run.session
    assert run.status == 0 and s.bye.residue & 2, (run.stderr[-300:], s.bye)
    assert run.second["after"]["residue"] == 0, run.second["after"]


@test("growth", lease=True)
def lease(run):
    assert run.status == 0 and run.second["ret"] == 0 and run.second["state"] == 4, run.stderr[-300:]
    assert run.second["leave_ms"] < 1000 and run.second["fds"] == 0 and not run.second["maps"], run.second


def check_cut(run):
    """A descriptor is the target's by now: the agent says so, leaves, and leaves it alone."""
    assert run.session.failed is None and run.first["hooked"], run.stderr[-600:]
    assert run.first["result"] == [True, True], run.first["result"]
    assert run.session.bye.reason == 7, run.session.bye
    assert all(r.rss > 100 for r in run.session.records if r.flags & wire.HAS_RSS), "a reading of the target's file"
    run.clean(residue=run.session.bye.residue)  # up to 3.11 the scenario's own frame runs through the thunk


@test()
def cut_wake(run):
    check_cut(run)


@test()
def cut_statm(run):
    check_cut(run)


@test()
def cut_rollup(run):
    check_cut(run)


@test()
def request(run):
    assert run.session.bye.reason == 2, run.session.bye
    run.clean()


@test(before=(3, 12), flags=wire.OPT_LINES, root=["asks_to_leave"])
def outlasted(run):
    """A thread has read its trace function, and calls it when the agent is gone."""
    assert run.first and run.first["result"] == 4, (run.status, run.first, run.stderr[-600:])
    assert run.session.lines(), "no line was traced"
    run.clean()


@test(before=(3, 12), needs="greenlet", flags=wire.OPT_LINES, root=["suspended"])
def outlasted_greenlets(run):
    outlasted(run)


@test(since=(3, 8), before=(3, 10), flags=wire.OPT_LINES, depth=5, root=["outer"])
def rearmed(run):
    """Calls return while the agent takes its trace function out, and do not put it back."""
    outlasted(run)


@test(before=(3, 12), flags=wire.OPT_LINES, depth=3, root=["lends_slot"])
def kept_trace(run):
    """Our trace function comes back when we are gone: what it is in has stayed, and that is said."""
    assert run.second and run.second["after"] is True, (run.status, run.second, run.stderr[-600:])
    run.clean(residue=8)


@test(before=(3, 12), flags=wire.OPT_LINES, root=["keeps_trace"])
def put_back(run):
    """Whoever has kept our trace function may put it back."""
    assert run.first and run.first["result"] is True, (run.status, run.first, run.stderr[-600:])
    run.clean(residue=run.session.bye.residue)


@test(before=(3, 12), flags=wire.OPT_LINES, root=["keeps_quietly"])
def kept_quietly(run):
    """Nothing is called between another tracer's coming and our going."""
    assert run.first and run.first["result"] is True, (run.status, run.first, run.stderr[-600:])
    run.clean(residue=8)


@test(before=(3, 10), flags=wire.OPT_LINES, root=["takes_slot"])
def taken_slot(run):
    """Up to 3.9 lines are told where threads with a tracer are counted: one that came meanwhile is."""
    assert run.first and run.first["result"] is True, (run.status, run.first, run.stderr[-600:])
    assert run.status == 0 and run.session.bye.residue == 8 and run.session.bye.slots["trace"] == 1, (run.status, run.session.bye)


@test(before=(3, 12), flags=wire.OPT_LINES, depth=3, root=["lends_slot"])
def came_back(run):
    """A leftover of ours is no debugger."""
    assert run.second and run.second["after"] == [True, 8, 0], (run.status, run.second, run.stderr[-600:])
    run.clean(residue=8)


@test(before=(3, 12), flags=wire.OPT_LINES, root=["forks_kept"])
def copied_trace(run):
    """What another tracer has kept before a fork it may put back in the child."""
    assert run.first and run.first["result"] == "[True, 8]", (run.status, run.first, run.stderr[-600:])
    run.clean(residue=run.session.bye.residue)


@test(before=(3, 12), flags=wire.OPT_LINES, root=["forks_kept"])
def copied_bare(run):
    """The call under way when it was forked returns at once in the child: it is counted no more when that leaves."""
    copied_trace(run)


@test(before=(3, 10), flags=wire.OPT_LINES, root=["forks_alone"])
def copied_count(run):
    """A cured child looks for tracers no more than before."""
    assert run.first and run.first["result"] == "False", (run.status, run.first, run.stderr[-600:])


@test(before=(3, 12), flags=wire.OPT_LINES, depth=3, root=["returns_slot"])
def returned_slot(run):
    """Our function that another tracer puts back is ours, and it is counted as often as before."""
    assert run.first and run.first["result"] == [True, 0], (run.status, run.first, run.stderr[-600:])
    assert run.second and run.second["after"] is False, (run.status, run.second, run.stderr[-600:])
    last = [r.line for r in run.session.lines() if r.name == "returns_slot"][-2:]
    assert last and last[-1] - last[0] == 1, last
    run.clean(residue=8)


@test(before=(3, 12), flags=wire.OPT_LINES, depth=3, root=["debugs"])
def debugged(run):
    """A debugger that comes and goes inside traced calls is told of its lines each time, and we of ours."""
    assert run.first and run.first["result"] == [True] * 4, (run.status, run.first, run.stderr[-600:])
    assert run.second and run.second["after"] == [[True], False], (run.status, run.second, run.stderr[-600:])
    assert len([r for r in run.session.lines() if r.name == "idle"]) == 4, [(r.name, r.line) for r in run.session.lines()]
    run.clean(residue=8)


@test(depth=5, root=["compared"])
def key_waits(run):
    """A dict's key may compare by code of the target's: the agent does not wait in it for the GIL, and is not gone when that ends."""
    assert run.first and run.first["result"] == 1, (run.status, run.first, run.stderr[-600:])
    run.clean()


@test(depth=5)
def key_compares(run):
    """A dict's key may compare by code of the target's, and call functions: it is not asked."""
    assert run.first and run.first["result"] == 0, (run.status, run.first, run.stderr[-600:])
    assert run.session.calls("compared"), [c.name for c in run.session.codes.values()]
    run.clean()


@test(since=(3, 8), depth=5)
def name_ends(run):
    """What the agent keeps of a function is never the last that keeps something of the target's, whose end is the target's code."""
    assert run.first and run.first["result"] == 60, (run.status, run.first, run.stderr[-600:])
    assert run.session.calls("named 59"), [c.name for c in run.session.codes.values()]
    run.clean()


@test("outlasted_collection", since=(3, 11), before=(3, 12), flags=wire.OPT_LINES, root=["asks_to_leave"])
def outlasted_collection(run):
    outlasted(run)


@test()
def hurried(run):
    """What a launcher that died left in the switch interval is taken back; what the target set is not."""
    assert run.first["result"] == [5000, 777], run.first["result"]
    run.clean()


@test()
def exits(run):
    assert run.status == 3, (run.status, run.stderr[-300:])
    assert run.session.bye is None or run.session.bye.reason == 5, run.session.bye


@test(root=["lines"], depth=1, flags=wire.OPT_LINES)
def lines(run):
    check_basic(run)
    s = run.session
    lined = [r for r in s.lines() if r.name == "lined"]
    first = run.first["result"]
    visits = [r.line - first for r in lined]
    assert visits == ([1] + [2, 3] * 4 + [2, 4, 5]) * 3, visits
    seen = set()
    for r in s.lines():
        assert r.depth == (0 if r.name == "lines" else 1)
        if (r.code, r.line) not in seen:
            assert r.flags & wire.HAS_USS and r.uss > 1 << 20, r
        seen.add((r.code, r.line))
    for i in range(3):
        after = lined[12 * i + 11]
        assert 50 <= after.own <= 52 and after.rss - lined[12 * i + 10].rss >= 50, after
    assert {r.name for r in s.lines()} <= {"lines", "lined", "catcher", "consume"}, {r.name for r in s.lines()}
    assert len(s.calls("lined")) == 3 and not s.calls("grower")


@test(overhead=20000)
def big(run):
    """A reading of smaps_rollup that would hold the target for long is not made."""
    check_basic(run)
    s = run.session
    assert s.selftest.flags & wire.SELF_ROLLUP_LONG and not s.selftest.flags & wire.SELF_ROLLUP, s.selftest
    assert s.calls("middle") and not [r for r in s.records if r.flags & wire.HAS_USS]


@test("big", overhead=0)
def big_ungoverned(run):
    check_basic(run)
    s = run.session
    assert s.selftest.flags & wire.SELF_ROLLUP and not s.selftest.flags & wire.SELF_ROLLUP_LONG, s.selftest
    assert [r for r in s.records if r.flags & wire.HAS_USS and r.uss > 900 << 20], [(r.name, r.flags, r.uss) for r in s.records]


@test(root=["far_lines"], depth=1, flags=wire.OPT_LINES, since=(3, 12))
def far_lines(run):
    """Lines of a traced function that is mostly called deeper cost nothing there, and are all seen within."""
    check_basic(run)
    s = run.session
    lined = [r.line for r in s.lines() if r.name == "far_lined"]
    assert len(lined) > 6 and lined == lined[:len(lined) // 3] * 3, lined
    assert s.stats[-1].events < 15000, "of 60,000 lines and more: %d" % s.stats[-1].events


@test("busy", depth=3, flags=wire.OPT_LINES)
def busy_lines(run):
    assert run.session.failed is None, run.session.failed
    run.clean()
    assert len(run.session.lines()) > 100


@test(before=(3, 12), flags=wire.OPT_LINES)
def traced(run):
    assert run.session.failed and run.session.failed[0] == 5, run.session.failed
    assert not run.first["hooked"] and run.session.bye.reason == 4
    run.clean()


@test(since=(3, 12))
def audited(run):
    assert run.session.failed and run.session.failed[0] == 2 and "not here" in run.session.failed[2], run.session.failed
    run.clean(residue=run.session.bye.residue)


@test(since=(3, 8), depth=5)
def audit_hook(run):
    check_basic(run)
    assert len(run.session.calls("grower")) == 10


@test("audit_hook", since=(3, 8), depth=5, flags=wire.OPT_LINES)
def audit_hook_lines(run):
    assert run.session.failed is None, run.session.failed
    run.clean()
    assert run.session.lines()


@test(since=(3, 8))
def audit_veto(run):
    assert run.session.failed and run.session.failed[0] == 2 and "no object" in run.session.failed[2], run.session.failed
    run.clean()


@test(since=(3, 8), before=(3, 12), flags=wire.OPT_LINES)
def audit_settrace(run):
    assert run.session.failed and run.session.failed[0] == 2 and "not here" in run.session.failed[2], run.session.failed
    run.clean()


def wait_for(condition):
    while not condition():
        yield None


def stage(s):
    return s.govern[-1].stage if s.govern else wire.FULL


def to_quiet_and_back(s):
    yield from wait_for(lambda: stage(s) == wire.QUIET)
    yield "calm\n"
    yield from wait_for(lambda: stage(s) == wire.FULL)
    yield "end\n"


def until_quiet(s):
    """The third quiet in a row lasts for 8 windows: a machine with other work has the time to ask while it does."""
    for _ in range(2):
        yield from wait_for(lambda: stage(s) == wire.QUIET)
        yield from wait_for(lambda: stage(s) != wire.QUIET)
    yield from wait_for(lambda: stage(s) == wire.QUIET)
    yield "end\n"


def until_some_stats(s):
    yield from wait_for(lambda: len(s.stats) >= 3 and s.stats[-1].events > 1000)
    yield "end\n"


def check_governed(run, asked_depth, asked_rollup):
    """What was announced: everything in order, within what was asked for; and the account agrees."""
    s = run.session
    assert s.failed is None and run.first and run.first["hooked"], (s.failed, run.stderr[-600:])
    stages = [wire.FULL] + [v.stage for v in s.govern]
    firsts = [n for i, n in enumerate(stages) if n not in stages[:i]]
    assert firsts == sorted(firsts), stages
    order = [n for n in range(5) if (n != wire.ROLLUP or asked_rollup) and (n != wire.DEPTH or asked_depth > 1)]
    for before, v in zip(stages, s.govern):
        assert abs(order.index(before) - order.index(v.stage)) <= 1, (stages, order)
        assert 1 <= v.depth <= asked_depth and v.sample <= 10 and v.rollup <= asked_rollup, v
        assert (v.depth == asked_depth) or v.rollup < asked_rollup or not asked_rollup, v
        assert not v.sample or v.depth == 1, v
        want = (wire.QUIET if v.stage == wire.QUIET else wire.SAMPLED if v.sample else wire.DEPTH if v.depth < asked_depth
                else wire.ROLLUP if v.rollup < asked_rollup else wire.FULL)
        assert v.stage == want and v.window > 0 and v.work > 0 and v.cost_ppm >= v.floor_ppm, v
    a = s.bye.account
    assert a.deepest == max(stages) and a.work > 0, (a, stages)
    assert a.least_depth == min([asked_depth] + [v.depth for v in s.govern]), a
    assert a.most_sample == max([0] + [v.sample for v in s.govern]), a
    assert [n for n in range(5) if a.stages[n]] == sorted(set(stages)), (a, stages)
    allowed = {0} | {v.sample for v in s.govern}
    assert {r.weight for r in s.records} <= allowed, ({r.weight for r in s.records}, allowed)
    assert run.second["after"] == 55
    run.clean(residue=s.bye.residue)
    return stages


@test(overhead=100, drive=to_quiet_and_back)
def governed(run):
    """0.01 % on a flood of calls: every stage, in order; and all of it back when the load stops."""
    stages = check_governed(run, 3, 10000)
    assert set(stages) == {0, 1, 2, 3, 4} and stages[-1] == wire.FULL, stages
    last = run.session.govern[-1]
    assert (last.depth, last.sample, last.rollup) == (3, 0, 10000), last


@test("governed", overhead=100, drive=until_quiet, flags=wire.OPT_NO_ROLLUP)
def governed_unhook_quiet(run):
    """Asked to leave while quiet. Without smaps_rollup there is no such stage."""
    stages = check_governed(run, 3, 0)
    assert set(stages) == {0, 2, 3, 4} and stages[-1] == wire.QUIET, stages


@test("governed", overhead=100, drive=until_quiet, flags=wire.OPT_LINES, depth=1)
def governed_lines(run):
    """Depth 1 can't be less."""
    stages = check_governed(run, 1, 10000)
    assert set(stages) == {0, 1, 3, 4}, stages


@test("governed", overhead=0, min_time=100000, drive=until_some_stats)
def governed_off(run):
    """0 gives nothing up, whatever it costs; the cost is told all the same. The few records that are as long as that are
    no more than the reader here can take on a busy machine: one that is slow for 700 ms gets no BYE."""
    s = run.session
    assert not s.govern and check_governed(run, 3, 10000) == [wire.FULL]
    assert max(v.account.cost_ppm for v in s.stats) > 1000 and not any(r.weight for r in s.records), s.stats[-1]


@test("nothing")
def detach(run):
    check_basic(run)


def refusing():
    """What lets allocations fail, for nomemory.py; None without a compiler."""
    folder = tempfile.TemporaryDirectory()
    out = os.path.join(folder.name, "nomemory.so")
    try:
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", out, os.path.join(HERE, "nomemory.c")], check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    atexit.register(folder.cleanup)
    return out


def without_memory(python, agent, helper, mode):
    """What is wrong, or None."""
    try:
        p = subprocess.run([python, os.path.join(HERE, "nomemory.py"), agent, helper, mode],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=CYCLES_SECONDS)
    except subprocess.TimeoutExpired:
        return "not done in time"
    if p.returncode or p.stderr:
        return "exit %d %s" % (p.returncode, p.stderr.decode()[-300:])
    said = json.loads(p.stdout.decode())
    if said["refused"] < FEW_REFUSED or not 0 < said["hooked"] < said["refused"] or not said["last"]:
        return "%s" % said
    return None


def threads_of(pid):
    """What each thread of a process waits for, if anything."""
    said = []
    for tid in sorted(os.listdir("/proc/%d/task" % pid), key=int):
        words = []
        for name in ("comm", "wchan", "syscall"):
            try:
                with open("/proc/%d/task/%s/%s" % (pid, tid, name)) as f:
                    words.append(f.read().strip())
            except OSError as e:
                words.append(e.strerror)
        said.append("  %s: %s" % (tid, ", ".join(words)))
    return "\n".join(said)


def cycles(python, args, mode):
    """What is wrong, or None. One that does not end says where it is before it is killed."""
    seconds = CYCLES_SECONDS + 2 * args.cycles
    p = subprocess.Popen([python, os.path.join(HERE, "cycles.py"), os.path.abspath(args.agent), str(args.cycles), "10", mode,
                          str(seconds - DUMP_SECONDS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        where = threads_of(p.pid)
        p.kill()
        stacks = [line for line, _ in itertools.groupby(p.communicate()[1].decode().split("\n"))]  # not each of a recursion
        return "not done in time\n%s\n%s" % (where, "\n".join(stacks))
    if p.returncode == 0 and json.loads(out.decode())["cycles"] == args.cycles:
        return None
    return "exit %d %s" % (p.returncode, err.decode()[-300:])


def interpreter(python, args):
    """All tests under one interpreter: passed, failed, what to print."""
    minor = int(subprocess.check_output([python, "-c", "import sys; print(sys.version_info[1])"]))
    start, passed, bad, skipped = time.time(), 0, [], []
    for name, scenario, check, since, before, needs, options in TESTS:
        if not since <= (3, minor) < before or (args.test and args.test != name):
            continue
        if needs and subprocess.call([python, "-c", "import " + needs], stderr=subprocess.DEVNULL):
            skipped.append("%s (no %s)" % (name, needs))
            continue
        try:
            options = dict(options)
            run = Run(python, os.path.abspath(args.agent), scenario, options, lease=options.pop("lease", False),
                      drive=options.pop("drive", None))
            run.minor = minor
            check(run)
            passed += 1
        except Exception as e:
            where = e.__traceback__
            while where.tb_next:
                where = where.tb_next
            bad.append("FAIL %s %s (line %d): %s: %s" % (python, name, where.tb_lineno, type(e).__name__, str(e)[:500]))
    for mode in [] if args.test not in (None, "cycles") else ["calls", "lines"]:
        wrong = cycles(python, args, mode)
        passed += not wrong
        if wrong:
            bad.append("FAIL %s cycles (%s): %s" % (python, mode, wrong))
    for mode in [] if args.test not in (None, "nomemory") else ["calls", "lines"]:
        if not args.helper:
            skipped.append("nomemory (%s) (no compiler)" % mode)
            continue
        wrong = without_memory(python, os.path.abspath(args.agent), args.helper, mode)
        passed += not wrong
        if wrong:
            bad.append("FAIL %s nomemory (%s): %s" % (python, mode, wrong))
    line = "%-45s %d passed, %d failed in %.1f s" % (python, passed, len(bad), time.time() - start)
    return passed, len(bad), "\n".join(bad + [line + ("; skipped: " + ", ".join(skipped) if skipped else "")])


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("agent", nargs="?", default=os.path.join(HERE, "../../build/agent.so"))
    ap.add_argument("--only")
    ap.add_argument("--test")
    ap.add_argument("--cycles", type=int, default=2, help="hooks and unhooks under load, each with an unload")
    ap.add_argument("--python", help="this interpreter only (one with greenlet, for example)")
    args = ap.parse_args()
    args.helper = refusing()
    pythons = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")),
                     key=lambda p: int(re.search(r"/3\.(\d+)", p).group(1)))
    if os.path.exists("/usr/bin/python3.11"):
        pythons.append("/usr/bin/python3.11")
    if args.python:
        pythons = [args.python]
    pythons = [p for p in pythons if not args.only or args.only in p]
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        done = [pool.submit(interpreter, p, args) for p in pythons]
        results = []
        for f in done:
            passed, failed, text = f.result()
            results.append((passed, failed))
            print(text, flush=True)
    failed = sum(f for _, f in results)
    print("%d passed, %d failed" % (sum(p for p, _ in results), failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
