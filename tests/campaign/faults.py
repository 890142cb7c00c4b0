"""The fault table: the launcher dies, fails or is stopped at each step of a session, and
runs out of memory at any allocation. After each: the target is unharmed, what was in it
goes by itself, and the next injection works. On the build with fault points
(src/base/fault.h), which also lists them: the table is what one session passes."""
import collections
import os
import re
import signal
import threading
import time

import harness
import lap
import procfs
import table

STATES = ("select", "fib", "threads", "raw_epoll")
REQUESTS = {0x4200: "setoptions", 0x4201: "geteventmsg", 0x4204: "getregset", 0x4206: "seize", 0x4207: "interrupt", 0x4209: "peeksiginfo",
            0x420a: "getsigmask", 0x420b: "setsigmask", 0x420f: "get_rseq", 7: "cont", 12: "getregs", 13: "setregs", 17: "detach", 24: "syscall"}
REPEATED = 12        # passages of a point that are tried; stops for a safe point can be many
ALLOCATIONS = 40     # of one session that are made to fail, evenly spread; each once, and from there on
STOP_SECONDS = 0.3   # for a stop in the midst of an injection, when a thread of the target stands too
DURATION = "30ms"    # of a session
SLAIN = (0, 3, 11)   # after a target's death: when all was over, before it was known, and in between
CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL)

SLICE = collections.namedtuple("Slice", "name costly")("fault points", False)

Point = collections.namedtuple("Point", "name kind n action")


def spell(point):
    """For people: ptrace setregs #3."""
    kind = REQUESTS.get(point.kind, point.kind) if point.name == "ptrace" else point.kind
    return "%s %s" % (point.name, kind)


def spec(point):
    return "%s-%d#%s:%s" % (point.name, point.kind, point.n, point.action)


class FaultLap(lap.Lap):
    """A lap whose sessions have one fault each."""

    def __init__(self, *args, **options):
        self.points = options.pop("points", None)
        super().__init__(*args, **options)

    def environment(self, **more):
        return dict(os.environ, **more)

    def list_points(self):
        """All passages of one session: [(name, kind, n)], in order."""
        path = os.path.join(self.folder, "points-%d" % self.number)
        harness.run(self.binary, "inject", "-p", self.target.pid, "-d", "30ms", "-q", "-o", os.devnull,
                    env=self.environment(MEMPULSE_FAULT_LIST=path)).expect(0)
        with open(path) as file:
            rows = [re.match(r"(\w+)-(-?\d+)#(\d+)$", line).groups() for line in file.read().splitlines()]
        lap.remove(path)
        return [(name, int(kind), int(n)) for name, kind, n in rows]

    def plan(self):
        found = []
        for name, kind, n in self.list_points():
            if name == "malloc":
                at = sorted({max(1, n * k // ALLOCATIONS) for k in range(ALLOCATIONS + 1)})
                found += [Point(name, kind, "%d%s" % (k, more), "enomem") for k in at for more in ("", "+")]
            elif n <= REPEATED:
                found += [Point(name, kind, n, action) for action in ("kill", "fail", "stop", "slay")]
        self.random.shuffle(found)
        return found

    def session(self):
        if self.points is None:
            self.points = self.plan()
            self.sessions = len(self.points)
        point = self.points.pop()
        return [self.slain(point) if point.action == "slay" else self.one(point)]

    def slain(self, point):
        """The target dies at that step: the launcher says so, and neither crashes nor waits."""
        row = self.row("fault", point=spell(point), n=str(point.n), action=point.action)
        with lap.Target(self) as target:
            with harness.Launcher(self.binary, "inject", "-p", target.pid, "-d", DURATION, "--timeout", "5s", "-q", "--json", "-o", os.devnull,
                                  env=self.environment(MEMPULSE_FAULT=spec(point), MEMPULSE_FAULT_TARGET=str(target.pid))) as launcher:
                result = launcher.result(lap.ANSWER)
            passed = target.process.poll() is not None
            target.account = {}  # it has no last word
        row["code"] = result.code
        if result.code not in (SLAIN if passed else (0,)):
            row["failure"] = ("%s: exit code %d: %s" % (spec(point), result.code, result.err))[:lap.TEXT_KEPT]
        return row

    def one(self, point):
        row = self.row("fault", point=spell(point), n=str(point.n), action=point.action)
        with harness.Launcher(self.binary, "inject", "-p", self.target.pid, "-d", "30ms", "--timeout", "5s", "-q", "--json",
                              "-o", os.devnull, env=self.environment(MEMPULSE_FAULT=spec(point))) as launcher:
            if point.action == "stop":
                self.continue_later(launcher.process, STOP_SECONDS)
            result = launcher.result(lap.ANSWER)
        row["code"] = result.code
        left = self.leaves()
        if left:
            row["swept"] = harness.run(self.binary, "detach", "-p", self.target.pid, "--wait", "5s").code
            left = procfs.ours(self.target.seen())
        following = harness.run(self.binary, "inject", "-p", self.target.pid, "-d", "10ms", "-q", "-o", os.devnull)
        row["next"] = following.code
        wrong = []
        if left:
            wrong.append("left: " + "; ".join(left))
        if point.name == "await" and point.action == "fail" and result.code:
            wrong.append("the thread stopped when it was not waited for any more, and the session said %d" % result.code)
        if result.code in CRASHES:
            wrong.append("the launcher crashed: %d" % result.code)
        if following.code:
            wrong.append("the next injection: %d %s" % (following.code, following.err))
        if not self.target.ask("ping").get("pong"):
            wrong.append("the target does not answer")
        if wrong:
            row["failure"] = ("%s: %s" % (spec(point), "; ".join(wrong)))[:lap.TEXT_KEPT]
        return row

    def continue_later(self, process, seconds):
        """A launcher that stopped itself is continued after a while."""
        deadline = time.monotonic() + lap.ANSWER
        while process.poll() is None and time.monotonic() < deadline:
            if procfs.state(process.pid) == "T":
                time.sleep(seconds)  # not for readiness: the length is the test
                os.kill(process.pid, signal.SIGCONT)
                return
            time.sleep(0.005)


class FaultSlice(FaultLap):
    """Each point once, at its first passage: the launcher dies there, or the step fails."""

    def plan(self):
        return sorted({Point(name, kind, 1, action) for name, kind, n in self.list_points() if name != "malloc"
                       for action in ("kill", "fail")})


def run(campaign, interpreters):
    """Every point, in some states, on each interpreter in turn until the time is over."""
    states = [s for s in table.STATES if s.name in STATES]
    jobs = [(state, interpreter) for k, interpreter in enumerate(i for i in interpreters if i.kind is None)
            for state in [states[k % len(states)]]]
    lock = threading.Lock()

    def work():
        while time.monotonic() < campaign.deadline:
            with lock:
                if not jobs:
                    return
                state, interpreter = jobs.pop(0)
            number = campaign.results.next_lap()
            one = FaultLap(number, state, interpreter, campaign.binary, campaign.helpers, campaign.folder, 1 << 30,
                           campaign.deadline, number)
            for row in one.run():
                campaign.results.add(row)
                campaign.tell(row)

    threads = [threading.Thread(target=work) for _ in range(campaign.options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
