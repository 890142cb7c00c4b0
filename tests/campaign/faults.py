"""The fault table: the launcher dies, fails or is stopped at each step of a session, and
runs out of memory at any allocation; the target is killed there, or exits, execs or
crashes by itself. After each: the target is unharmed, what was in it goes by itself, and
the next injection works. On the build with fault points (src/base/fault.h), which also
lists them: the table is what one session passes, in each of several ways. A session
whose point was not reached is told apart."""
import collections
import contextlib
import itertools
import os
import re
import signal
import threading
import time

import harness
import lap
import outputs
import procfs
import report
import table

STATES = ("select", "fib", "threads", "raw_epoll")
WAYS = (  # (way, state, what the interpreter must be): the points of each are different ones
    ("inject", "lone_busy", lambda i: i.version == (3, 6)),  # is held until it has a GIL: `standstill`
    ("inject", "gil_never_asked", lambda i: i.version >= (3, 7)),  # `hurry`
    ("inject", "seccomp_strict", lambda i: True),  # no sockets: pipes
    ("detach", "fib", lambda i: True),
    ("sweep", "fib", lambda i: True),
    ("cure", "kin", lambda i: True),
    ("lines", "select", lambda i: True),
    ("inject", "framehook", lambda i: (3, 9) <= i.version < (3, 12)),  # another eval-frame function: NOTE
    ("refused", "traced", lambda i: i.version < (3, 12)),  # the trace function is a debugger's: FAILED
    ("governed", "fib", lambda i: True),  # GOVERN
    ("lossy", "fib", lambda i: True),  # LOST
    ("late", "fib", lambda i: True),
    ("undone", "fib", lambda i: True),
    ("output", "registers", lambda i: True),
    ("output", "fib", lambda i: True),
)
REQUESTS = {0x4200: "setoptions", 0x4201: "geteventmsg", 0x4204: "getregset", 0x4206: "seize", 0x4207: "interrupt", 0x4209: "peeksiginfo",
            0x420a: "getsigmask", 0x420b: "setsigmask", 0x420f: "get_rseq", 7: "cont", 12: "getregs", 13: "setregs", 17: "detach", 24: "syscall"}
REPEATED = 12        # passages of a point that are tried; stops for a safe point can be many
REACHES = 8          # tries of a passage of a point that no session has reached
ALLOCATIONS = 40     # of one session that are made to fail, evenly spread; each once, and from there on
STOP_SECONDS = 0.3   # for a stop in the midst of an injection, when a thread of the target stands too
DURATION = "30ms"    # of a session
ONCE = ("lone_busy",)  # states that a session ends for good: each point has a target of its own
OPTIONS = {"inject": (), "lines": ("--lines",), "refused": ("--lines",), "governed": ("--max-overhead", "0.01"),
           "lossy": ("--depth", "0", "--max-overhead", "0"), "late": (), "undone": ()}  # of `inject`, by the way
GOVERNED = "500ms"   # of a session: the governor's first windows are of 100 ms
LAP_SECONDS = 60     # of a way; then it is another's turn
SELF = ("exit", "exec", "crash")
UNHARMED = (0, 10)   # without a fault: a thunk page may stay under a call that lasts
SLAIN = (0, 3, 11)   # after a target's death: when all was over, before it was known, and in between
NOT_PYTHON = 4       # what it executed before it was looked at
CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL)

UNUSED = "ptrace-24#1:kill"  # after the thread was told to map a region, before anything is in it
SLICES = [collections.namedtuple("Slice", "name costly")(name, False) for name in ("fault points", "faults of the output")]

Point = collections.namedtuple("Point", "name kind n action")
FIRST = {  # by the way: a fault that each of its sessions has, and is to survive
    "lossy": Point("got", 7, 1, "doze"),  # at the first records, for half a second; a ring is full by then
    "late": Point("late", 0, 1, "fail"),  # a call in the target does not end in time
    "undone": Point("ptrace", 24, 3, "fail"),  # the loader's thread can't be made
}
SECOND = {"late": ("late", 1), "undone": ("undone", 0)}  # the point that is passed after it, and never without


def spell(point):
    """For people: ptrace setregs #3."""
    kind = REQUESTS.get(point.kind, point.kind) if point.name == "ptrace" else point.kind
    return "%s %s" % (point.name, kind)


def spec(point):
    return "%s-%d#%s:%s" % (point.name, point.kind, point.n, point.action)


class Tried:
    """What was tried of each point by all laps, since the results' file began: what was tried least comes next. A point
    that no session has reached yet, since chance has a part in that, is tried several times."""

    def __init__(self, rows=()):
        self.passages, self.points, self.fired, self.lock = collections.Counter(), collections.Counter(), set(), threading.Lock()
        for row in rows:
            if row["t"] == "fault":
                self.count(row["point"], row["action"], row["n"])
                self.note(row)

    def count(self, told, action, n):
        self.points[told, action] += 1
        self.passages[told, action, n] += 1

    def note(self, row):
        if row.get("fired"):
            self.fired.add((row["point"], row["action"]))

    def is_left(self, told, point):
        if point.name == "malloc":  # whose numbers differ from session to session
            return self.points[told, point.action] < 2 * (ALLOCATIONS + 1)
        return self.passages[told, point.action, str(point.n)] < (1 if (told, point.action) in self.fired else REACHES)

    def take(self, points, tell):
        """The next of a lap's points, which it loses; None when all were tried."""
        with self.lock:
            left = [(self.points[tell(point), point.action], k) for k, point in enumerate(points) if self.is_left(tell(point), point)]
            if not left:
                return None
            point = points.pop(min(left)[1])
            self.count(tell(point), point.action, str(point.n))
            return point


class FaultLap(lap.Lap):
    """A lap whose sessions have one fault each."""
    arenas_known = False  # a `detach` without memory was seen to leave two; maps_grew tells

    def __init__(self, *args, **options):
        self.way, self.tried = options.pop("way", "inject"), options.pop("tried", None) or Tried()
        self.points, self.fired, self.child, self.passed = None, None, None, collections.Counter()
        super().__init__(*args, **options)

    # --- what is done to a target, and meets the fault ----------------------------------------

    def words(self, target):
        """The command, when all that it needs is there."""
        if self.way in OPTIONS:
            return ("inject", "-p", target.pid, "-d", GOVERNED if self.way == "governed" else DURATION, "--timeout", "5s", "-q", "--json",
                    "-o", os.devnull) + OPTIONS[self.way]
        return "detach", "-p", self.child or target.pid, "--wait", "1s"

    @contextlib.contextmanager
    def scene(self, target):
        """What the command finds: nothing; an agent at work; a region in which nobody ever ran; a child of a fork, with copies."""
        launcher = None
        if self.way in ("detach", "cure"):
            launcher = harness.Launcher(self.binary, "inject", "-p", target.pid, "-o", os.devnull)
            launcher.wait_attached(lap.ANSWER)
        if self.way == "cure":
            self.child = target.ask("fork")["child"]
            launcher.signal(signal.SIGINT)
            launcher.result(lap.ANSWER)
        if self.way == "sweep":
            harness.run(self.binary, "inject", "-p", target.pid, "-q", "-o", os.devnull, env=self.environment(MEMPULSE_FAULT=UNUSED))
        try:
            yield
        finally:
            if launcher:
                launcher.__exit__()

    @contextlib.contextmanager
    def started(self, target, **variables):
        with self.scene(target), harness.Launcher(self.binary, *self.words(target), env=self.environment(**variables)) as launcher:
            yield launcher

    def environment(self, **more):
        if self.way in FIRST:
            more["MEMPULSE_FAULT"] = ",".join(filter(None, (more.get("MEMPULSE_FAULT"), spec(FIRST[self.way]))))
        return dict(os.environ, **more)

    def list_points(self):
        """All passages of one session: [(name, kind, n)], in order."""
        path = os.path.join(self.folder, "points-%d" % self.number)
        with self.started(self.target, MEMPULSE_FAULT_LIST=path) as launcher:
            result = launcher.result(lap.ANSWER)
        harness.check(result.code in self.unharmed(), "%s", result)
        if result.code == 10:
            harness.run(self.binary, "detach", "-p", self.target.pid, "--wait", "%ds" % lap.ANSWER).expect(0)
        self.leave_child()
        with open(path) as file:
            rows = [re.match(r"(\w+)-(-?\d+)#(\d+)$", line).groups() for line in file.read().splitlines()]
        lap.remove(path)
        return [(name, int(kind), int(n)) for name, kind, n in rows]

    def unharmed(self):
        return {"refused": (6,), "undone": (9,)}.get(self.way, UNHARMED)

    def plan(self):
        found = []
        for name, kind, n in self.list_points():
            if SECOND.get(self.way, (name, kind)) != (name, kind):
                continue
            self.passed[name, kind] = max(self.passed[name, kind], n)
            if name == "malloc":
                at = sorted({max(1, n * k // ALLOCATIONS) for k in range(ALLOCATIONS + 1)})
                found += [Point(name, kind, "%d%s" % (k, more), "enomem") for k in at for more in ("", "+")]
            elif n <= REPEATED and (self.way not in FIRST or (name, kind, n) != FIRST[self.way][:3]):
                found += [Point(name, kind, n, action) for action in ("kill", "fail", "stop", "slay", "bury") + SELF]
        self.random.shuffle(found)
        return found

    # --- sessions ----------------------------------------------------------------------------

    def planned(self):
        """What this lap is to try: how many passages of each point with each action; and of which there are more."""
        counts = collections.Counter((self.told(point), point.action) for point in self.points)
        beyond = [Point(name, kind, n, None) for (name, kind), n in self.passed.items() if n > REPEATED and name != "malloc"]
        return self.row("plan", points=[list(what) + [n] for what, n in sorted(counts.items())], most=REPEATED,
                        beyond={self.told(point): point.n for point in beyond})

    def session(self):
        if self.points is None:
            self.points = self.plan()
            self.sessions = len(self.points) + 1  # rows
            return [self.planned()]
        point = self.tried.take(self.points, self.told)
        if point is None:
            self.points, self.sessions = [], 0
            return []
        self.doing = spec(point)
        self.fired = os.path.join(self.folder, "fired-%d" % self.number)
        one = self.slain if point.action in ("slay", "bury") + SELF else self.once if self.state.name in ONCE else self.one
        row = one(point)
        row["fired"] = self.has_fired(point)
        self.tried.note(row)
        lap.remove(self.fired)
        return [row]

    def faulty(self, target, point):
        return self.started(target, MEMPULSE_FAULT=spec(point), MEMPULSE_FAULT_TARGET=str(self.child or target.pid),
                            MEMPULSE_FAULT_FIRED=self.fired)

    def has_fired(self, point):
        """That is told when it comes true; so is the way's own fault."""
        try:
            with open(self.fired) as file:
                told = [line.strip() for line in file]
        except OSError:
            return False
        return any(self.way not in FIRST or not spec(FIRST[self.way]).startswith(line + ":") for line in told)

    def told(self, point):
        return spell(point) if self.way == "inject" else "%s: %s" % (self.way, spell(point))

    def new_row(self, point):
        return self.row("fault", point=self.told(point), n=str(point.n), action=point.action)

    def slain(self, point):
        """The target ends at that step: the launcher says so, and neither crashes nor waits."""
        row = self.new_row(point)
        with lap.Target(self, ends=point.action in SELF) as target:
            with self.faulty(target, point) as launcher:
                result = launcher.result(lap.ANSWER)
            fired = self.has_fired(point)
            wrong = self.lives_on(target.pid) if fired and point.action == "exec" else []
            target.account = {}  # it has no last word
            self.leave_child()
        row["code"] = result.code
        codes = SLAIN if fired else self.unharmed()
        if point.action == "exec" and '"changed_target":false' in result.err:
            codes += (NOT_PYTHON,) + self.unharmed()  # refused, and then it went
        if result.code not in codes:
            wrong.append("exit code %d: %s" % (result.code, result.err))
        if wrong:
            row["failure"] = ("%s: %s" % (spec(point), "; ".join(wrong)))[:lap.TEXT_KEPT]
        return row

    def lives_on(self, pid):
        """What is wrong with the program that took the target's place."""
        try:
            procfs.wait_until(lambda: procfs.read(pid, "comm") == "sleep\n" and procfs.state(pid) == "S", lap.ANSWER, "it sleeps")
            left = procfs.ours(pid) + ["it is traced"] * ("TracerPid:\t0" not in procfs.read(pid, "status"))
            return left + ["it has %d threads" % n for n in [len(procfs.tasks(pid))] if n > 1]
        except (OSError, AssertionError) as error:
            return ["what it executed does not live: %s" % error]

    def once(self, point):
        """As one, with a target of its own."""
        kept = self.target
        try:
            with lap.Target(self) as self.target:
                row = self.one(point)
                wrong = self.judge()
        finally:
            self.target = kept
        if wrong:
            row["failure"] = ("%s: %s" % (row.get("failure", spec(point)), "; ".join(wrong)))[:lap.TEXT_KEPT]
        return row

    def one(self, point):
        row = self.new_row(point)
        with self.faulty(self.target, point) as launcher:
            if point.action == "stop":
                stood = self.continue_later(launcher.process, STOP_SECONDS)
            result = launcher.result(lap.ANSWER)
        row["code"] = result.code
        self.kills += result.code == -signal.SIGKILL
        self.outlived(row)
        wrong = [row.pop("failure")] if "failure" in row else []
        wrong += ["the target stood as long as the launcher"] * (point.action == "stop" and stood)
        wrong += self.leave_child()
        following = harness.run(self.binary, "inject", "-p", self.target.pid, "-d", "10ms", "-q", "-o", os.devnull)
        row["next"] = following.code
        if self.way == "inject" and point.name == "await" and point.action == "fail" and result.code:
            wrong.append("the thread stopped when it was not waited for any more, and the session said %d" % result.code)
        if "swept" in row and '"changed_target":false' in result.err:
            wrong.append("left, and the session said that nothing was changed")
        if result.code in CRASHES:
            wrong.append("the launcher crashed: %d" % result.code)
        if following.code:
            wrong.append("the next injection: %d %s" % (following.code, following.err))
        if not self.target.ask("ping").get("pong"):
            wrong.append("the target does not answer")
        if wrong:
            row["failure"] = ("%s: %s" % (spec(point), "; ".join(wrong)))[:lap.TEXT_KEPT]
        self.look(row)
        # Of a thread that lives the kernel refuses neither registers nor pending signals: without, nobody can tell a wait that is to go on.
        self.count_eintr(row, point.name == "ptrace" and point.action == "fail")
        return row

    def leave_child(self):
        """The child of a fork is cleaned, and ended. What is wrong with it."""
        child, self.child, wrong = self.child, None, []
        if child and procfs.alive(child):
            result = harness.run(self.binary, "detach", "-p", child, "--wait", "5s")
            wrong += ["the child: detach says %d %s" % (result.code, result.err)] * (result.code != 0)
            wrong += ["left in the child: " + line for line in procfs.ours(child)]
            os.kill(child, signal.SIGKILL)
        elif child:
            wrong.append("the child is dead")
        return wrong

    def continue_later(self, process, seconds):
        """A launcher that stopped itself is continued after a while. True: the target stood meanwhile."""
        deadline = time.monotonic() + lap.ANSWER
        while process.poll() is None and time.monotonic() < deadline:
            if procfs.state(process.pid) == "T":
                time.sleep(seconds)  # not for readiness: the length is the test
                # One that runs again, as it is to, may hold a thread at this moment.
                stood = bool(procfs.standing(self.target.pid)) and procfs.state(process.pid) == "T"
                os.kill(process.pid, signal.SIGCONT)
                return stood
            time.sleep(0.005)
        return False


class FaultSlice(FaultLap):
    """Each point once, at its first passage: the launcher dies there, or the step fails, or the target is dead."""

    def plan(self):
        return sorted({Point(name, kind, 1, action) for name, kind, n in self.list_points() if name != "malloc"
                       for action in ("kill", "fail", "bury")})


def slice_lap(which, number, interpreter, *more):
    """The lap of an entry of SLICES."""
    state = next(s for s in table.STATES if s.name == ("registers" if which is SLICES[1] else STATES[0]))
    return (outputs.OutputSlice if which is SLICES[1] else FaultSlice)(number, state, interpreter, *more)


def turns(interpreters, whole):
    """(way, state, interpreter), each way in turn, each on another interpreter the next time, until all are whole."""
    states = {s.name: s for s in table.STATES}
    ways = [("inject", name, lambda i: True) for name in STATES] + list(WAYS)
    ways = [(way, states[name], [i for i in interpreters if i.kind is None and fits(i)]) for way, name, fits in ways]
    total = sum(len(fitting) for _, _, fitting in ways)
    for n in itertools.count():
        for k, (way, state, fitting) in enumerate(ways):
            job = fitting and (way, state, fitting[(n + k) % len(fitting)])
            if job and job not in whole:
                yield job
        if len(whole) == total:
            return


def run(campaign, interpreters):
    """Every point of every way, what was tried least first, LAP_SECONDS of each in turn, until all are tried or the time is over."""
    whole, lock, tried = set(), threading.Lock(), Tried(report.read_rows(campaign.results.path))
    jobs = turns(interpreters, whole)

    def lap_of(way, state, interpreter):
        number = campaign.results.next_lap()
        common = number, state, interpreter, campaign.binary, campaign.helpers, campaign.folder, 1 << 30, campaign.deadline, number, LAP_SECONDS
        return outputs.OutputLap(*common) if way == "output" else FaultLap(*common, way=way, tried=tried)

    def work():
        while time.monotonic() < campaign.deadline:
            with lock:
                job = next(jobs, None)
            if not job:
                return
            one, never = lap_of(*job), False
            for row in one.run():
                campaign.results.add(row)
                campaign.tell(row)
                never = never or row["t"] == "skip" and not row["slow"]
            with lock:
                if never or one.points == []:
                    whole.add(job)

    threads = [threading.Thread(target=work) for _ in range(campaign.options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
