"""main.py [budget=SECONDS] [slow=FACTOR] [only=PART,...]: runs inside the guest of
kernels.py, on its kernel; a JSON row a line goes to the second serial port.

    probe     what statm, minflt and smaps_rollup say of pages that are known (probes.c)
    selftest  the agent's own words on them (`meta` of sessions with waiting and busy targets)
    session, lap, skip   as the campaign's, for the states below
    test      a live test
    done      the end was reached

An emulated machine is slow: `slow` stretches every deadline (harness.PATIENCE), and what
comes first in the lists below is what must be seen; the time ends the lists, not a test."""
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tty

HERE = os.path.dirname(os.path.abspath(__file__))
CAMPAIGN = os.path.dirname(HERE)
ROOT = os.path.dirname(os.path.dirname(CAMPAIGN))
OPTIONS = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
os.environ["MEMPULSE_SLOW"] = OPTIONS.get("slow", "1")
sys.path[:0] = [os.path.join(ROOT, "tests", "live"), CAMPAIGN]

import channel
import children
import harness
import lap
import run as live
import scenarios
import sessions
import table

PORT = "/dev/ttyS1"
SELFTESTS = 3     # sessions of each interpreter and target
LAP_SESSIONS, LAP_SECONDS = 5, 60
CORE = ("select", "epoll", "sleep", "read", "event", "fib", "malloc_2", "threads", "sigalrm", "queued", "fork", "registers",
        "raw_epoll", "raw_poll", "raw_nanosleep", "raw_recv", "raw_semop", "raw_semtimedop", "raw_sigtimedwait", "raw_futex",
        "raw_accept", "raw_connect", "raw_send", "raw_wait4", "raw_flock", "raw_sigsuspend", "raw_io_getevents", "spawn_vfork",
        "malloc_1", "malloc_1_one_arena", "thread_churn", "small_stack", "alloc", "sigprof", "fork_thread", "multiprocessing",
        "recursion", "deep", "imports", "leader_gone", "stopped", "seccomp_service", "seccomp_no_open", "dumpable_0", "setuid_worker",
        "namespaces", "user_namespace", "hidepid", "asyncio", "traced", "tracemalloc")
TESTS = (channel, sessions, scenarios, children)


def ends_of(text):
    """What was wrong comes first, and what else there was last."""
    return text if len(text) <= 3000 else text[:1000] + "\n[...]\n" + text[-2000:]


class Port:
    """Rows, each at once."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_NOCTTY)
        if os.isatty(self.fd):
            tty.setraw(self.fd)
        self.begin = time.monotonic()

    def send(self, row):
        data = (json.dumps(dict(row, at=round(time.monotonic() - self.begin, 1)), sort_keys=True) + "\n").encode()
        while data:
            data = data[os.write(self.fd, data):]


class Guest:
    def __init__(self):
        self.port = Port(OPTIONS.get("port", PORT))
        self.deadline = time.monotonic() + float(OPTIONS.get("budget", 600))
        self.only = [name for name in OPTIONS.get("only", "all").split(",") if name != "all"]
        self.build = os.path.join(ROOT, "build")
        self.binary = os.path.join(self.build, "mempulse")
        self.folder = tempfile.mkdtemp(prefix="mp-guest-")
        os.chmod(self.folder, 0o755)
        self.exact = {}  # (probe, whose pages): whether it was right
        self.interpreters = harness.find_interpreters()[0]
        for interpreter in self.interpreters:
            interpreter.kind = interpreter.root = interpreter.inside = None

    def wanted(self, *names):
        return not self.only or any(name in self.only for name in names)

    def time_is_up(self):
        return time.monotonic() > self.deadline

    # --- parts ------------------------------------------------------------------------

    def probes(self):
        done = subprocess.run([os.path.join(self.build, "probes")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            row = json.loads(line)
            self.exact[row["probe"], row["who"]] = row["low"] == row["high"] == 0
            self.port.send(row)

    def selftest(self):
        for interpreter in self.interpreters:
            for state in ("select", "threads"):
                try:
                    with harness.Target(interpreter.path, state) as target:
                        for number in range(SELFTESTS):
                            self.port.send(dict(self.one_selftest(target, number), t="selftest", python=interpreter.name, state=state))
                except (AssertionError, OSError) as failure:
                    self.port.send({"t": "selftest", "python": interpreter.name, "state": state, "failure": ends_of(str(failure))})

    def one_selftest(self, target, number):
        path = os.path.join(self.folder, "selftest")
        result = harness.run(self.binary, "inject", "-p", target.pid, "-d", "100ms", "--json", "-v", "-o", path)
        result.expect(0)
        meta = harness.stream_of(path, False).meta
        if target.state == "select":
            self.check_selftest(meta["selftest"])
        row = {"pause_ns": meta["pause_ns"], "attempts": meta["attempts"], "selftest": meta["selftest"]}
        if number == 0:
            row["plan"] = [line for line in result.err.splitlines() if line.startswith(("plan:", "channel:"))][:40]
        return row

    def check_selftest(self, told):
        """Where nothing else moves, the agent knows what the probes know: statm is right, or
        it makes it so, or it says that it is not."""
        plain, synced = (self.exact.get((probe, "a lone thread")) for probe in ("statm", "synced"))
        harness.check(told.get("statm_synced", False) == (synced and not plain), "statm_synced is wrong: %s", told)
        harness.check((told["statm_error_pages"] == 0) == (plain or synced), "the error of statm is wrong: %s", told)

    def states(self, turn):
        """Each state on one interpreter; another turn, another interpreter."""
        known = {state.name: state for state in table.STATES}
        for number, name in enumerate(CORE):
            if self.wanted("states", name):
                interpreter = self.interpreters[(number + turn) % len(self.interpreters)]
                yield lambda: self.lap(turn * len(CORE) + number, known[name], interpreter)

    def lap(self, number, state, interpreter):
        one = lap.Lap(number, state, interpreter, self.binary, os.path.join(self.build, "campaign"), self.folder,
                      LAP_SESSIONS, min(self.deadline, time.monotonic() + LAP_SECONDS), "%d" % number)
        for row in one.run():
            self.port.send(row)

    def tests(self, turn):
        """All on one interpreter."""
        for name, function in [case for module in TESTS for case in module.tests(False)]:
            if self.wanted("tests", name):
                yield lambda: self.test(self.interpreters[turn], name, function)

    def test(self, interpreter, name, function):
        tally = Tally()
        live.run_test(live.Test(name, function, interpreter), self.binary, tally, [])
        row = {"t": "test", "name": name, "python": interpreter.name, "outcome": tally.outcome, "seconds": round(tally.seconds, 1)}
        if tally.outcome != "passed":
            row["why" if tally.outcome == "skipped" else "failure"] = ends_of(tally.detail)
        self.port.send(row)

    def run(self):
        self.probes()
        if self.wanted("selftest"):
            self.selftest()
        for turn in range(len(self.interpreters)):
            for deeds in itertools.zip_longest(self.states(turn), self.tests(turn)):
                for deed in deeds:
                    if deed and not self.time_is_up():
                        deed()
        self.port.send({"t": "done", "left": round(self.deadline - time.monotonic())})


class Tally:
    """What run_test() tells of its one test."""

    def add(self, name, outcome, seconds, detail=""):
        self.outcome, self.seconds, self.detail = outcome, seconds, detail


if __name__ == "__main__":
    guest = Guest()
    try:
        guest.run()
    except BaseException as error:
        guest.port.send({"t": "broken", "failure": repr(error)})
        raise
    finally:
        shutil.rmtree(guest.folder, ignore_errors=True)
