"""A lap: one target, many sessions, and what it says of itself at the end.

A lap yields rows for the file of results: one for each session, one for the lap.
A target is `harmed` when it died, its own account is not that of an undisturbed run, it
no longer answers, or something of ours is in it at the end. No word of the launcher's is
taken for it: after each session the target is looked at from outside, while it works."""
import ctypes
import json
import math
import os
import random
import resource
import signal
import subprocess
import tempfile
import time

import harness
import procfs

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = os.path.join(HERE, "targets", "campaign.py")
PR_SET_PDEATHSIG = 1
NOTHING = 7        # exit code of `detach --strict` that has found nothing
NEWEST = (3, 13)  # what is newer is refused
DURATION_MS = (5, 30)  # of a session; drawn anew for each
ENDS_WITHIN = 0.030 * harness.SLOW  # seconds: from its start on, or from when it is hooked
ENDED = (0, 3, 4, 11)  # of a session whose target ends: after it, before it, while it is looked at, in its midst
STARVE_ROOM = (64 << 10, 12 << 20)  # bytes of addresses; a whole session takes some 8 MiB, and 64 more for a malloc arena that can be done without
STARVED = (0, 8, 10)
KILL_WITHIN = 0.045 * harness.SLOW  # seconds: most launchers are hooked after 20 ms
LEASE = 5 + 4 * harness.SLOW        # MP_GO_WAIT_MS (5 s, for a launcher's first byte) and what a loaded machine adds
EMPTY = 0.5 * harness.SLOW          # for a thread that was told to clone, to have done so
ANSWER = 60 * harness.SLOW          # for a busy target on a busy machine
COSTLY_START = 300 * harness.SLOW   # for gigabytes, beside all others
NOISE_STEPS = 12      # of `registers`: about as long as a session
NICE = (0, 19, 19, 19, 19)  # of targets: most work beside the launchers rather than against them
REGION, THUNK_CODE = 182 * 4096, 4096  # MP_REGION_SIZE: in one piece, so nobody has run there; THUNK_PAGE
SETTLE_LOOKS = 100                  # of a worker, until LOOKS of them are the same
LOOKS, LOOK_STEP = 5, 0.02          # a descriptor or thread of the target's own may be there for a moment
TEXT_KEPT = 700
THUNK = "two thunk pages stay mapped, inert: a frame entered through them has not returned yet"
KEPT = ("interval", "tracer_kept", "lines_covered", "tracemalloc")  # what a target sees to at its end: an itimer, tracers
WEIGHTS = {"inject": 8, "lines": 2, "kill": 2, "elsewhere": 2, "two": 1}  # of actions, where a state doesn't say which
libc = ctypes.CDLL(None)


def kept(text):
    """Its beginning and its end: what was wrong, and what the target said."""
    return text if len(text) < 3 * TEXT_KEPT else text[:2 * TEXT_KEPT] + "\n...\n" + text[-TEXT_KEPT:]


def die_with_us(nice=0):
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.nice(nice)


def descendant(pid):
    """The process at the end of a chain of only children: unshare's fork."""
    while True:
        try:
            children = procfs.read(pid, "task/%d/children" % pid).split()
        except OSError:
            return pid
        if len(children) != 1:
            return pid
        pid = int(children[0])


class Slow(harness.Skip):
    """For now: it may be had at another time."""


class Target(harness.Target):
    """As the live tests', but started by a command before it, with a process that may be
    that command's child, and perhaps without a leader."""

    forgiven = eintr = 0

    def __init__(self, lap, ends=False):
        """ends: it ends itself when it gets a signal (targets/helper.c)."""
        state, interpreter = lap.state, lap.interpreter
        prefix = list(state.prefix(lap) if callable(state.prefix) else state.prefix)
        extra = state.env(lap) if callable(state.env) else state.env
        if ends:
            helper = os.path.join(lap.helpers, "helper.so")
            extra = dict(extra, CAMPAIGN_ENDS="1", LD_PRELOAD=":".join(filter(None, (helper, extra.get("LD_PRELOAD")))))
        to_target, self.to = os.pipe()
        self.fro, from_target = os.pipe()
        self.stdio, self.moves = tempfile.TemporaryFile(), state.moves
        argv = prefix + [interpreter.path, "-B", interpreter.inside or TARGET, state.target, str(to_target), str(from_target)]
        env = dict(harness.target_environment(), CAMPAIGN_HELPERS=lap.helpers, **extra)
        if interpreter.inside:
            env["CAMPAIGN_TARGETS"] = env["CAMPAIGN_HELPERS"] = os.path.dirname(interpreter.inside)
        self.process = harness.spawn(argv, pass_fds=(to_target, from_target), stdin=subprocess.DEVNULL, stdout=self.stdio,
                                     stderr=self.stdio, env=env, preexec_fn=lambda: die_with_us(lap.nice))
        os.close(to_target)
        os.close(from_target)
        self.reader, self.state, self.account, self.hello, self.pid = harness.LineReader(self.fro), state.name, None, {}, self.process.pid
        try:
            self.hello = self.answer(lap.patience())
            if "skip" in self.hello:  # of the costly ones, when the memory is in use
                raise (Slow if state.costly else harness.Skip)(self.hello["skip"])
            if state.worker:
                self.pid = self.hello["pid"]
            elif "unshare" in prefix[:1]:
                self.pid = descendant(self.process.pid)
            self.before = self.snapshot()
            self.run()
        except (AssertionError, OSError) as failure:
            self.close()
            raise Slow("it did not start: %s" % str(failure)[-TEXT_KEPT:])
        except BaseException:
            self.close()
            raise

    def seen(self):
        """The thread through which /proc shows the process: a leader that has ended has no maps. The
        oldest one that lives then, since the newest may be ours, and about to end."""
        return self.pid if procfs.alive(self.pid) else procfs.oldest(self.pid)

    def snapshot(self):
        """While it stands still; a server's worker may be closing its last request's socket all the same."""
        now, same = procfs.Snapshot(self.seen()), 0
        for _ in range(SETTLE_LOOKS if self.pid != self.process.pid and "fds" in self.moves else 0):
            time.sleep(LOOK_STEP)
            last, now = now, procfs.Snapshot(self.seen())
            same = same + 1 if now.fds == last.fds else 0
            if same == LOOKS:
                break
        return now

    def close(self):
        if self.pid != self.process.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except OSError:
                pass
        super().close()

    def answer(self, seconds=ANSWER):
        return super().answer(seconds)

    def ask(self, text, *more):
        """The report's EINTRs, as many as there may be, are told apart."""
        told = super().ask(text, *more)
        report = told.get("report") or {}
        if text == "stop" and 0 < report["eintr"] <= self.forgiven:
            self.eintr, report["eintr"] = report["eintr"], 0
            if report["wrong"] <= self.eintr:  # the steps that had them
                report["wrong"], report["checksum"] = 0, harness.undisturbed(self.hello["reference"], report["steps"])
        return told

    def pause(self):
        harness.check(self.ask("pause").get("paused"), "the target does not pause")
        return self.snapshot()


class Lap:
    def __init__(self, number, state, interpreter, binary, helpers, folder, sessions, deadline, seed, seconds=math.inf):
        """At most so many seconds of sessions; what the target takes to begin is not among them."""
        self.outputs = folder
        self.number, self.state, self.interpreter, self.binary = number, state, interpreter, binary
        self.helpers, self.folder, self.sessions, self.deadline, self.seconds = helpers, folder, sessions, deadline, seconds
        self.random = random.Random(seed)
        self.before_exec = die_with_us
        self.nice = 0 if state.costly else self.random.choice(NICE)
        self.ends = []
        self.kills = self.eintr = self.forgiven = 0
        self.target = self.doing = None

    arenas_known = True  # libc's malloc makes one more for our threads, and no second one

    def patience(self):
        """For a target's start; no costly one is waited for beyond the end of the run."""
        return max(ANSWER, min(COSTLY_START, self.deadline - time.monotonic())) if self.state.costly else ANSWER

    def on_end(self, function):
        self.ends.append(function)

    def row(self, kind, **fields):
        return dict(fields, t=kind, state=self.state.name, python=self.interpreter.name, lap=self.number)

    def run(self):
        """Yields rows. A state that can't be had here gives a single row, `skip`."""
        begin, done = time.monotonic(), 0
        harms, refused, notes = [], 0, 0
        try:
            self.prefix()  # what it can't be had without is missed before there is a target
            with Target(self) as self.target:
                self.deadline = min(self.deadline, time.monotonic() + self.seconds)
                with self.around():
                    while done < self.sessions and time.monotonic() < self.deadline and self.target.process.poll() is None:
                        for row in self.attempt():
                            done += 1
                            notes += row["t"] in ("note", "plan")
                            refused += row.get("code") in (4, 5, 6, 8) and "failure" not in row
                            yield row
                harms = self.judge()
        except harness.Skip as reason:
            if not done:
                yield self.row("skip", why=str(reason), slow=isinstance(reason, Slow))
                return
            harms.append("it was not judged: %s" % reason)
        except AssertionError as failure:
            harms.append("%s: %s" % (self.doing, failure))
        except Exception as error:  # of a target that is gone, mostly; none may pass for a lap without harm
            harms.append("%s: %s: %s; status %s" % (self.doing, type(error).__name__, error, self.target and self.target.process.poll()))
        finally:
            for end in self.ends:
                end()
        fields = dict(sessions=done - notes, refused=refused, seconds=round(time.monotonic() - begin, 3), harms=[kept(h) for h in harms])
        yield self.row("lap", **fields, **self.growth())

    def attempt(self):
        """A session's rows. One that can't be had, because its own target does not start, says nothing of the lap's."""
        try:
            return self.session()
        except harness.Skip as reason:
            return [self.row("note", action=self.doing, why=str(reason))]

    def around(self):
        return self.state.after(self, self.target) if self.state.after else open(os.devnull)

    # --- the end ---------------------------------------------------------------------------

    def judge(self):
        """What is wrong with the target, as it says itself and as it looks from outside."""
        target, found = self.target, []
        if target.process.poll() is not None:
            return ["it ended with status %s: %s" % (target.process.returncode, target.said()[-TEXT_KEPT:])]
        self.after = target.pause()
        late = procfs.ours(target.seen()) if self.kills else []
        if late and all_of(REGION, late):  # mapped after the last session's look
            self.launch("detach", "--wait", "10s")
            self.after = procfs.Snapshot(target.seen())
        strict = self.state.steady and self.arenas_known and not procfs.object_arena(target.before, self.after)
        found += ["left: " + text for kind, text in procfs.differences(target.before, self.after)
                  if (kind != "maps" or strict) and not (kind in ("ours", "code") and self.stands_below())]
        # By who may see everything: a launcher that is refused would find nothing either.
        detached = harness.run(self.binary, "detach", "-p", target.pid, "--strict", "--wait", "10s")
        if detached.code != NOTHING and not (detached.code in (0, 10) and self.state.above):
            found.append("detach at the end: %s" % detached)
        try:
            target.forgiven = self.forgiven
            target.stop()
            extra = target.account["extra"]
            found += ["%s: %s" % (name, extra[name]) for name in KEPT if not extra.get(name, True)]
        except AssertionError as failure:
            found.append(str(failure))
        return found

    def growth(self):
        target, after = self.target, getattr(self, "after", None)
        if not after:
            return {}
        return {"maps_grew": len(after.maps) - len(target.before.maps), "rss_grew": after.rss - target.before.rss,
                "longest_step_ns": (target.account or {}).get("longest_step_ns"), "eintr_of_kills": target.eintr}

    # --- sessions ----------------------------------------------------------------------------

    def session(self):
        actions = self.state.actions or tuple(WEIGHTS)
        action = self.random.choices(actions, [WEIGHTS.get(a, 1) for a in actions])[0]
        self.doing = action
        watched = self.state.target == "registers" and action == "inject"
        if watched:
            self.target.ask("gap")
        rows = getattr(self, "do_" + action)()
        if action != "ends":
            self.look(rows[-1])
            self.count_eintr(rows[-1])
        if watched:  # the gap of a session, and that of about the same time without one
            rows[0]["gap_ns"] = self.target.ask("gap")["gap"]
            self.target.work(NOISE_STEPS)
            rows[0]["noise_ns"] = self.target.ask("gap")["gap"]
        return rows

    def look(self, row):
        """From outside, with no word of the launcher's, while the target works: what the session left, or changed
        in a refusal that changes nothing. Mappings, and what a state moves of itself, are compared at the lap's end."""
        for n in range(LOOKS):
            now = procfs.Snapshot(self.target.seen())
            kinds = dict(procfs.differences(self.target.before, now))
            seen = [text for kind, text in kinds.items() if kind != "maps" and kind not in self.state.moves and
                    not (kind in ("ours", "code") and self.stands_below())]
            if "ours" in kinds and row["code"] == -signal.SIGKILL and "swept" not in row:
                self.outlived(row)  # the thread that was told to map it did so only now
            elif not seen or "ours" in kinds:
                break
            time.sleep(LOOK_STEP)  # what stays is still there then
        if seen and "failure" not in row:
            row["failure"] = "seen after it: " + "; ".join(seen)[:TEXT_KEPT]

    def count_eintr(self, row, excused=False):
        """A launcher that was killed while it held a wait can't put that back: one EINTR. None other is forgiven, but
        where ptrace itself was refused."""
        if not self.state.eintr:
            return
        seen = self.target.ask("ping")["eintr"]
        if seen > self.eintr + (excused or row["code"] == -signal.SIGKILL):
            row.setdefault("failure", "%d EINTRs reached the target" % (seen - self.eintr))
        else:
            self.forgiven += seen - self.eintr
        self.eintr = seen

    def duration(self):
        return "%dms" % self.random.randint(*DURATION_MS)

    def prefix(self):
        """Of the launcher."""
        return self.state.launcher(self) if callable(self.state.launcher) else self.state.launcher

    def launch(self, command, *options):
        return harness.run(self.binary, command, "-p", self.target.pid, *options, prefix=self.prefix())

    def start(self, action, *options, target=None):
        """A launcher with its output in a file of its own."""
        prefix = self.prefix()
        path = os.path.join(self.outputs, "%d-%d.ndjson" % (self.number, self.random.randrange(1 << 30)))
        launcher = harness.Launcher(self.binary, "inject", "-p", (target or self.target).pid, "--json", "-o", path,
                                    *self.state.options, *options, prefix=prefix)
        launcher.path, launcher.begin, launcher.hooked, launcher.action = path, time.monotonic(), None, action
        return launcher

    def wait_hooked(self, launcher):
        """Reads what it says up to its banner or its end. True: it is attached."""
        while launcher.hooked is None:
            line = launcher.reader.line(ANSWER)
            if line is None:
                return False
            launcher.err.append(line)
            if launcher.BANNER in line:
                launcher.hooked = time.monotonic() - launcher.begin
        return True

    def end(self, launcher, allowed=None):
        """Waits for it; the session's row."""
        self.wait_hooked(launcher)
        result = launcher.result(ANSWER)
        row = self.row("session", action=launcher.action, code=result.code, **read_stream(launcher.path))
        if launcher.hooked is not None:
            row["hooked_ns"] = int(launcher.hooked * 1e9)
        allowed = tuple(allowed or self.codes())
        name, unchanged = read_error(result.err)
        if name:
            row["error"] = name
        if result.code in (4, 5, 6, 8) and unchanged is False:
            row["changed"] = True
        if self.thunk_stayed(result):
            row["late"], result.code = True, 0 if self.state.above else self.sweep(row)
        if result.code not in allowed or row.get("changed"):
            row["failure"] = result.err[-TEXT_KEPT:]
        return row

    def codes(self):
        return (4,) if self.interpreter.version > NEWEST else tuple(self.state.codes)

    def thunk_stayed(self, result):
        """A traced call took longer than the launcher waits: up to 3.11 its thunk stays, and nothing else."""
        if self.state.above:
            return result.code == 10 and self.stands_below()
        left = procfs.ours(self.target.seen())
        return result.code == 10 and THUNK in result.err and not self.interpreter.monitoring and all_of(THUNK_CODE, left)

    def stands_below(self):
        """Whether thunks that another tool may call are all that is left: for as long as that is there."""
        return self.state.above and not self.interpreter.monitoring and all_of(THUNK_CODE, procfs.ours(self.target.seen()))

    def sweep(self, row):
        """What may have been left must go with the next detach."""
        row["swept"] = self.launch("detach", "--wait", "10s").code
        return row["swept"]

    def may_stay(self, left):
        """After a launcher that died: a mapping in which nobody runs, or a thunk under a call that lasts."""
        return self.state.hurried or all_of(REGION, left) or not self.interpreter.monitoring and all_of(THUNK_CODE, left)

    def simple(self, action, *options):
        with self.start(action, *options) as launcher:
            return [self.end(launcher)]

    def do_inject(self):
        return self.simple("inject", "-d", self.duration())

    def do_lines(self):
        return self.simple("lines", "-d", self.duration(), "--lines")

    def do_kill(self):
        """The launcher is killed at any moment; the agent leaves by itself, or `detach`,
        from another terminal, takes away what stands there."""
        self.kills += 1
        with self.start("kill", "-d", "60s") as launcher:
            if self.random.random() < 0.5:  # a busy machine may take longer than KILL_WITHIN to hook
                self.wait_hooked(launcher)
            try:
                launcher.process.wait(self.random.uniform(0, KILL_WITHIN))
            except subprocess.TimeoutExpired:
                pass
            launcher.signal(signal.SIGKILL)
            if launcher.process.wait() == -signal.SIGKILL:
                row = self.row("session", action="kill", code=-signal.SIGKILL)
                remove(launcher.path)
            else:
                row = self.end(launcher)  # it was refused before
        if self.random.random() < 0.5:
            self.detach(row)
        self.outlived(row)
        return [row]

    def detach(self, row):
        """From another terminal."""
        result = self.launch("detach", "--wait", "5s")
        row["detach"] = result.code
        if self.thunk_stayed(result):
            row["late"], result.code = True, 0 if self.state.above else self.sweep(row)
        if result.code:
            row["failure"] = "detach: %d %s" % (result.code, result.err[-TEXT_KEPT:])

    def outlived(self, row):
        """The launcher has died: what ran in the target leaves by itself, and only what nobody runs in is swept."""
        begin = time.monotonic()
        left = [] if self.stands_below() else self.leaves()
        row["lease_ns"] = int((time.monotonic() - begin) * 1e9)
        if left and self.may_stay(left):
            told = self.sweep(row) == 10 and self.stands_below()
            left = [] if told else procfs.ours(self.target.seen())
        if left:
            row["failure"] = "the launcher is gone, and still there is: " + "; ".join(left)[:TEXT_KEPT]

    def leaves(self):
        """What is left when nothing changes any more. What nobody runs in is not waited for
        as long as an agent is."""
        begin = time.monotonic()
        left = procfs.ours(self.target.seen())
        while left and time.monotonic() - begin < (EMPTY if self.may_stay(left) else LEASE):
            time.sleep(0.01)
            left = procfs.ours(self.target.seen())
        return left

    def do_elsewhere(self):
        with self.start("elsewhere", "-d", "60s") as launcher:
            if not self.wait_hooked(launcher):
                return [self.end(launcher)]
            told = {}
            self.detach(told)
            row = self.end(launcher)
        return [dict(row, **told)]

    def do_two(self):
        """At the same moment: both are told the truth, and the target has one agent at most."""
        with self.start("two", "-d", self.duration()) as one, self.start("two", "-d", self.duration()) as other:
            allowed = self.codes() + (6,)
            return [self.end(one, allowed), self.end(other, allowed)]

    def do_starve(self):
        """Its addresses end a little above what it has: sometime each step of loader and agent is refused memory."""
        pid, limits = self.target.pid, resource.prlimit(self.target.pid, resource.RLIMIT_AS)
        has = int(procfs.read(pid, "statm").split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (has + self.random.randrange(*STARVE_ROOM), limits[1]))
        try:
            with self.start("starve", "-d", self.duration(), "--timeout", "5s") as launcher:
                row = self.end(launcher, STARVED)
        finally:
            resource.prlimit(pid, resource.RLIMIT_AS, limits)
        if row["code"] == 10 and self.sweep(row):
            row["failure"] = "detach, with memory again: %d" % row["swept"]
        return [row]

    def do_ends(self):
        """A target of its own comes to its end while a session begins, runs or is over."""
        with Target(self) as target:
            with self.start("ends", "-d", self.duration(), target=target) as launcher:
                if self.random.random() < 0.5:
                    self.wait_hooked(launcher)
                time.sleep(self.random.uniform(0, ENDS_WITHIN))  # not for readiness: any moment will do
                target.stop()
                return [self.end(launcher, ENDED)]


def all_of(size, left):
    """Whether mappings of that size are all that is left. A region whose code is a mapping of its own is in use, or was."""
    return all(not line.startswith("fd ") and procfs.Mapping(line).size == size for line in left)


def remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass


def read_stream(path):
    """What meta and end say of a session."""
    found = {}
    try:
        with open(path, "rb") as file:
            meta = json.loads(file.readline())
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            end = json.loads(file.read().splitlines()[-1].decode())
        found = {"pause_ns": meta["pause_ns"], "attempts": meta["attempts"], "clean": end.get("clean"), "reason": end.get("reason"),
                 "lost": end.get("lost"), "records": end.get("records")}
    except (OSError, ValueError, KeyError, IndexError):
        pass
    remove(path)
    return found


def read_error(err):
    """(name, changed_target is False) of the JSON object, if there is one."""
    for line in err.splitlines():
        if line.startswith("{"):
            try:
                told = json.loads(line)
                return told.get("code"), not told.get("changed_target", False)
            except ValueError:
                pass
    return None, None
