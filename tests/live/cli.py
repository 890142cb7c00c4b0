"""The command line's contract: refusals, outputs, options."""
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import governor
import harness
import procfs
from harness import Skip, check, run

NOBODY = 65534
ERROR_KEYS = {"type", "code", "exit", "message", "hint", "changed_target"}
TRACER = os.path.join(harness.TARGETS, "tracer.py")


def menu(context, **options):
    return harness.Target(context.python, "menu", **options)


def session(context, target, *options, act="burst", duration="400ms", schema=True):
    """A short session in which the target does what `act` says. (result, stream)"""
    path = context.file("session.ndjson")
    with harness.Launcher(context.binary, "inject", "-p", target.pid, "-d", duration, "--json", "-o", path,
                          "--max-overhead", "0", *options) as launcher:
        launcher.wait_attached()
        for command in act.split(","):
            check("unknown" not in target.ask(command), "the target does not know '%s'", command)
        result = launcher.result()
    return result, harness.stream_of(path, schema)


def refused(context, pid, exit_code, code, **options):
    """inject refuses, by exit code and by name, in text and in JSON, and says what it changed."""
    result = run(context.binary, "inject", "-p", pid, "-d", "1s", "--json", **options).expect(exit_code)
    error = result.error()
    check(error["code"] in (code if isinstance(code, tuple) else (code,)), "code %s was expected\n%s", code, result)
    check(ERROR_KEYS <= set(error), "keys are missing: %s\n%s", ERROR_KEYS - set(error), result)
    check(error["type"] == "error" and error["exit"] == exit_code and error["changed_target"] is False, "%s", result)
    check(error["message"] and error["hint"], "no message or no hint\n%s", result)
    check(result.out == "", "stdout is not empty\n%s", result)
    text = run(context.binary, "inject", "-p", pid, "-d", "1s", **options).expect(exit_code)
    check("nothing in the target was changed" in text.err, "it does not say so\n%s", text)
    return error


# --- refusals -----------------------------------------------------------------------

def no_such_process(context):
    refused(context, 999999999, 3, "ESRCH")


def exited_process(context):
    process = harness.spawn(["/bin/true"])
    harness.reap(process)
    refused(context, process.pid, 3, "ESRCH")


def zombie(context):
    process = harness.spawn(["/bin/true"])
    procfs.wait_until(lambda: procfs.state(process.pid) == "Z", 10, "it becomes a zombie")
    try:
        refused(context, process.pid, 11, "TARGET_EXITED")
    finally:
        harness.reap(process)


def not_python(context):
    process = harness.spawn(["/bin/sleep", "60"])
    try:
        refused(context, process.pid, 4, "NOT_PYTHON")
        check(procfs.alive(process.pid), "it did not survive")
    finally:
        harness.reap(process)


def python2(context):
    found = [path for name, path in harness.pyenv_versions().items() if name.startswith("2.7")]
    python = found[0].replace("python3", "python2.7") if found else shutil.which("python2.7")
    if not python or not os.path.exists(python):
        raise Skip("python2.7 is missing")
    process = harness.spawn([python, "-c", "import os, time; os.write(1, b'x'); time.sleep(60)"], stdout=subprocess.PIPE)
    try:
        process.stdout.read(1)
        refused(context, process.pid, 4, "PY_VERSION")
    finally:
        harness.reap(process)
        process.stdout.close()


def stopped(context):
    with menu(context) as target:
        os.kill(target.pid, signal.SIGSTOP)
        procfs.wait_until(lambda: procfs.state(target.pid) == "T", 10, "it stops")
        refused(context, target.pid, 8, "STOPPED")
        check(procfs.state(target.pid) == "T", "it is not stopped any more")
        os.kill(target.pid, signal.SIGCONT)


def already_traced(context):
    with menu(context) as target:
        tracer = harness.spawn([sys.executable, TRACER, str(target.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            if not tracer.stdout.readline():
                raise Skip("ptrace is not permitted here")
            error = refused(context, target.pid, 6, "BUSY_TRACED")
            check(str(tracer.pid) in error["message"], "the tracer is not named: %s", error)
        finally:
            harness.reap(tracer)
            tracer.stdin.close()
            tracer.stdout.close()


def as_nobody(context):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        raise Skip("needs root and setpriv")
    return ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups"]


def unprivileged(context):
    prefix = as_nobody(context)
    with menu(context) as target:
        refused(context, target.pid, 5, ("EPERM", "EPERM_UID"), prefix=prefix)


def own_process(context):
    """Without privileges, on a process of one's own: works, or Yama is named."""
    prefix = as_nobody(context)
    with menu(context, prefix=prefix) as target:
        result = run(context.binary, "inject", "-p", target.pid, "-d", "200ms", "--json", prefix=prefix)
        if result.code == 5:
            check(result.error()["code"] == "EPERM_YAMA", "%s", result)
            raise Skip("Yama forbids it")
        result.expect(0)
        harness.Stream(result.out)
        target.check_untouched()


# --- usage ------------------------------------------------------------------------------

WRONG = (
    (), ("nonsense",), ("inject",), ("inject", "-p"), ("inject", "-p", "0"), ("inject", "-p", "abc"),
    ("inject", "-p", "-5"), ("inject", "1", "2"), ("inject", "--nonsense", "-p", "1"), ("inject", "-p", "1", "-d", "10x"),
    ("inject", "-p", "1", "-d", "-1s"), ("inject", "-p", "1", "-d", "0"), ("inject", "-p", "1", "-n", "0"),
    ("inject", "-p", "1", "-n", "many"), ("inject", "-p", "1", "--depth", "-1"), ("inject", "-p", "1", "--depth", "1000"),
    ("inject", "-p", "1", "-f", "yaml"), ("inject", "-p", "1", "--color", "maybe"), ("inject", "-p", "1", "--min-bytes", "x"),
    ("inject", "-p", "1", "--min-time", "x"), ("inject", "-p", "1", "--function", ""), ("inject", "-p", "1", "--thread", "x"),
    ("inject", "-p", "1", "--report", "mempulse"), ("inject", "-p", "1", "--report", "other", "--lines"),
    ("inject", "-p", "1", "--report", "mempulse", "--lines", "--json"),
    ("inject", "-p", "1", "-o", "%z"), ("inject", "-p", "1", "--fail-on", "rss"), ("inject", "-p", "1", "--max-loss", "101"),
    ("inject", "-p", "1", "--max-overhead", "101"), ("inject", "-p", "1", "--max-overhead", "-1"),
    ("inject", "-p", "1", "--max-overhead", "two"), ("inject", "-p", "1", "--max-overhead", "0.00001"),
    ("detach",), ("detach", "-p", "x"), ("detach", "-p", "1", "--wait", "x"), ("detach", "--nonsense"),
    ("status", "--nonsense"), ("status", "-p", "x"),
)


def usage(context):
    for args in WRONG:
        result = run(context.binary, *args)
        check(result.code == 2, "exit code 2 was expected\n%s", result)
        check(result.out == "" and result.err.strip(), "stderr alone should speak\n%s", result)


def usage_json(context):
    error = run(context.binary, "inject", "--json", "-p", "abc").expect(2).error()
    check(error["code"] == "USAGE" and error["exit"] == 2, "%s", error)


def help_and_version(context):
    for args in (("--help",), ("inject", "--help"), ("detach", "--help"), ("status", "--help"), ("--version",), ("inject", "--version")):
        result = run(context.binary, *args).expect(0)
        check(result.out.strip() and not result.err, "stdout alone should speak\n%s", result)
    for option in ("--duration", "--depth", "--root", "--min-bytes", "--json", "--summary", "--lines"):
        check(option in run(context.binary, "inject", "--help").out, "%s is not in the help", option)


# --- options ------------------------------------------------------------------------------

def positional(context):
    with menu(context) as target:
        result = run(context.binary, "inject", "-d", "100ms", "--json", target.pid).expect(0)
        check(harness.Stream(result.out).meta["pid"] == target.pid, "%s", result)


DURATIONS = (("300ms", 0.3), ("0.3s", 0.3), ("0.005m", 0.3), ("0.4", 0.4))
DURATION_SLACK = 1.5  # seconds, for a loaded machine


def durations(context):
    with menu(context) as target:
        for text, seconds in DURATIONS:
            result = run(context.binary, "inject", "-p", target.pid, "-d", text, "--json").expect(0)
            wall = harness.Stream(result.out).end["wall_ns"] / 1e9
            check(seconds * 0.95 <= wall <= seconds + DURATION_SLACK, "-d %s lasted %.3f s", text, wall)


def count(context):
    with harness.Target(context.python, "fib") as target:
        result = run(context.binary, "inject", "-p", target.pid, "-n", "5", "--json").expect(0)
        stream = harness.Stream(result.out)
        check(len(stream.of("call")) == 5, "%d calls\n%s", len(stream.of("call")), result)
        check(stream.end["reason"] == "count" and stream.end["clean"], "%s", stream.end)


# The main loop is the base: handle 1, command 2, burst 3, grow_big 4, leak_pages and middle 5, inner 6.
# options, functions that must be there, functions that must not
ALL = ("--depth", "6")
FILTERS = (
    (ALL, {"grow_small", "grow_big", "be_slow", "outer", "middle", "inner", "leak_pages"}, set()),
    (ALL + ("--function", "grow_*"), {"grow_small", "grow_big"}, {"be_slow", "outer", "burst", "leak_pages"}),
    (ALL + ("--function", "outer", "--function", "be_*"), {"outer", "be_slow"}, {"grow_big", "burst"}),
    (ALL + ("--exclude", "grow_*"), {"be_slow", "outer", "burst"}, {"grow_small", "grow_big"}),
    (ALL + ("--module", "__main__"), {"burst", "grow_big"}, {"leak_pages", "handle"}),
    (ALL + ("--module", "work"), {"leak_pages", "handle"}, {"burst", "grow_big"}),
    (ALL + ("--exclude", "__main__"), {"leak_pages"}, {"burst", "grow_big"}),
    (ALL + ("--min-time", "50ms"), {"be_slow", "burst"}, {"grow_small", "grow_big", "outer"}),
    (("--root", "burst", "--depth", "1"), {"grow_small", "be_slow", "outer"}, {"leak_pages", "handle", "middle"}),
    (("--root", "outer", "--depth", "1"), {"middle"}, {"inner", "grow_big"}),
    (("--root", "outer", "--depth", "2"), {"middle", "inner"}, {"grow_big"}),
    (("--depth", "1"), {"handle"}, {"burst", "grow_big"}),
    (("--depth", "4"), {"handle", "burst", "outer"}, {"middle", "leak_pages"}),
    (("--depth", "0"), {"handle", "burst", "outer", "middle", "inner", "leak_pages"}, set()),
)


def filters(context):
    with menu(context) as target:
        for options, wanted, unwanted in FILTERS:
            result, stream = session(context, target, *options, schema=False)
            result.expect(0)
            got = {harness.bare(row["function"]) for row in stream.of("call")}
            check(wanted <= got, "%s: %s are missing, there are %s", options, sorted(wanted - got), sorted(got))
            check(not unwanted & got, "%s: %s should not be there", options, sorted(unwanted & got))


MIN_BYTES = 64 << 10


def min_bytes(context):
    """Judged by the records' own figures: rss may change in any call, when memory is short."""
    with menu(context) as target:
        _, stream = session(context, target, "--min-bytes", MIN_BYTES, *ALL)
        check(stream.of("call", "grow_big"), "grow_big is missing")
        for row in stream.of("call"):
            check(max(abs(row["rss_delta_bytes"]), row["own_bytes"]) >= MIN_BYTES, "too small: %s", row)
        check(stream.end["filtered"] > 0, "nothing was filtered: %s", stream.end)


def thread(context):
    with menu(context) as target:
        tid = target.ask("helper_tid")["tid"]
        result, stream = session(context, target, "--thread", tid, act="burst,burst_helper,burst")
        result.expect((0, 10))  # the helper then waits in a frame that does not return
        calls = stream.of("call")
        check({row["tid"] for row in calls} == {tid}, "threads %s, %d alone was expected", {row["tid"] for row in calls}, tid)
        check(len(stream.of("call", "grow_big")) == 1, "%d calls of grow_big, 1 was expected", len(stream.of("call", "grow_big")))
        run(context.binary, "inject", "-p", target.pid, "--thread", "1", "-d", "1s").expect(3)


def depths(context):
    """From a root the depth of each call is what the program says."""
    with menu(context) as target:
        _, stream = session(context, target, "--root", "burst", "--depth", "4")
        for function, depth in (("grow_big", 1), ("leak_pages", 2), ("outer", 1), ("middle", 2), ("inner", 3)):
            got = {row["depth"] for row in stream.of("call", function)}
            check(got == {depth}, "depth of %s: %s, %d was expected", function, got, depth)


def fail_on(context):
    with menu(context) as target:
        result, _ = session(context, target, "--fail-on", "rss>512K", duration="600ms")
        result.expect(15)
        result, _ = session(context, target, "--fail-on", "rss>1G", "--fail-on", "self>1G")
        result.expect(0)


def summary(context):
    with menu(context) as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "-d", "500ms", "--summary", *ALL) as launcher:
            launcher.wait_attached()
            target.ask("burst")
            result = launcher.result().expect(0)
        check("leak_pages" in result.out and "be_slow" in result.out, "the ranking lacks functions\n%s", result)
        check("nothing left behind" in result.err, "no verdict\n%s", result)


def quiet(context):
    with menu(context) as target:
        result = run(context.binary, "inject", "-q", "-p", target.pid, "-d", "200ms", "--json").expect(0)
        check(result.err == "", "-q speaks\n%s", result)


# --- outputs ----------------------------------------------------------------------------------

def output_first(context):
    """An output that can't be written is told before the target is looked at."""
    for pid in (999999999, os.getpid()):
        result = run(context.binary, "inject", "--json", "-p", pid, "-o", "/nonexistent/x.ndjson").expect(12)
        error = result.error()
        check(error["code"] == "OUTPUT" and error["changed_target"] is False, "%s", result)


def output_names(context):
    """%p, %t and the extension."""
    with menu(context) as target:
        run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "-o", context.file("out-%p-%t.ndjson")).expect(0)
        found = [name for name in os.listdir(context.folder) if name.startswith("out-%d-2" % target.pid)]
        check(len(found) == 1, "files: %s", os.listdir(context.folder))
        harness.stream_of(context.file(found[0]))
        run(context.binary, "inject", "-p", target.pid, "-d", "100ms", "-o", context.file("out.txt")).expect(0)
        with open(context.file("out.txt")) as file:
            check(not file.read().startswith("{"), "text was expected in out.txt")


def disk_full(context):
    """An output that fails in the middle: 12, the target clean."""
    with harness.Target(context.python, "fib") as target:
        run(context.binary, "inject", "-p", target.pid, "-d", "5s", "--json", "-o", "/dev/full").expect(12)
        with open("/dev/full", "w") as full:
            run(context.binary, "inject", "-p", target.pid, "-d", "5s", stdout=full).expect(12)
        target.check_untouched()


def reader_leaves(context):
    """As `| head -3`: a bounded, clean detach, and no error."""
    with harness.Target(context.python, "fib") as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "--json", stdout=subprocess.PIPE) as launcher:
            for _ in range(3):
                check(launcher.process.stdout.readline().startswith(b"{"), "no stream")
            launcher.process.stdout.close()
            result = launcher.result(15)
        result.expect(0)
        check("nothing left behind" in result.err, "no clean end\n%s", result)
        target.check_untouched()


def idle_reader_leaves(context):
    """The same while the target does nothing that could be written."""
    with menu(context) as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "--json", "--function", "never",
                              stdout=subprocess.PIPE) as launcher:
            launcher.wait_attached()
            launcher.process.stdout.close()
            launcher.result(15).expect(0)


def reader_sleeps(context):
    """A reader that never reads does not keep the launcher from leaving."""
    with harness.Target(context.python, "fib") as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "-d", "1s", "--json",
                              stdout=subprocess.PIPE) as launcher:
            launcher.result(20)
        target.check_untouched()


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEEPS_GIL = """
import ctypes, os, time
place = ctypes.create_string_buffer(1)
os.write(1, b"ready\\n")
ctypes.PyDLL(None).read(0, place, 1)
os.write(1, b"back\\n")
time.sleep(60)
"""


def signals(context):
    with harness.Target(context.python, "fib") as target:
        for number in SIGNALS:
            path = context.file("signal.ndjson")
            with harness.Launcher(context.binary, "inject", "-p", target.pid, "--json", "-o", path) as launcher:
                launcher.wait_attached()
                launcher.signal(number)
                launcher.result().expect(128 + number)
            end = harness.stream_of(path).end
            check(end["reason"] == "signal" and end["clean"], "%s", end)
        target.check_untouched()


def interrupted(context, launcher, number, *released):
    """A signal for a launcher that has no session yet."""
    launcher.signal(number)
    for release in released:
        release(launcher)
    result = launcher.result()
    check(harness.Launcher.BANNER not in result.err, "a session\n%s", result)
    return result


def signals_early_search(context):
    """While a safe point is looked for: long before --timeout, with nothing changed."""
    with harness.Target(context.python, "scanning") as target:
        for wait in (0.2, 0.2, 0.4, 0.8, 1.6):  # it may be met in the moment between two calls, or be slow to begin
            with harness.Launcher(context.binary, "inject", "-p", target.pid, "--timeout", "60s", "--json", "-o", os.devnull) as launcher:
                time.sleep(wait)
                launcher.signal(signal.SIGINT)
                result = launcher.result(5).expect(130)
            if "none at a safe point" in result.err:
                break
        error = result.error()
        check(error["code"] == "INTERRUPTED" and "none at a safe point" in error["message"] and not error["changed_target"], "%s", error)
        target.check_untouched()


def signals_early_lock(context):
    with harness.Target(context.python, "fib") as target:
        with open("/proc/%d/mem" % target.pid, "rb", 0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for number in SIGNALS:
                with harness.Launcher(context.binary, "inject", "-p", target.pid, "--json", "-o", os.devnull) as launcher:
                    check("waiting" in (launcher.reader.line(harness.PATIENCE) or ""), "it does not wait")
                    error = interrupted(context, launcher, number).expect(128 + number).error()
                check(error["code"] == "INTERRUPTED" and error["exit"] == 128 + number, "%s", error)
                check(not error["changed_target"] and "signal %d" % number in error["hint"], "%s", error)
        target.check_untouched()


def suspend_key(context):
    """Ctrl-Z does not suspend a detach: it might hold a thread just then. Asked of the kernel,
    which lets a process group without a shell, as ours is, pass over SIGTSTP anyway."""
    with harness.Target(context.python, "fib") as target:
        with open("/proc/%d/mem" % target.pid, "rb", 0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with harness.Launcher(context.binary, "detach", "-p", target.pid) as launcher:
                check("waiting" in (launcher.reader.line(harness.PATIENCE) or ""), "it does not wait")
                ignored = procfs.signals(launcher.process.pid, launcher.process.pid)["SigIgn"]
                check(int(ignored, 16) >> (signal.SIGTSTP - 1) & 1, "it can be suspended: %s", ignored)
                fcntl.flock(file, fcntl.LOCK_UN)
                launcher.result().expect(0)
        target.check_untouched()


def hung_up(launcher):
    """The launcher has closed its end of the channel."""
    procfs.wait_until(lambda: not any(at.startswith("socket:") for at in procfs.links(launcher.process.pid).values()),
                      harness.PATIENCE, "no socket of the launcher's")


def signals_early_gil(context):
    """The agent waits for the GIL: it leaves when it gets it, which is waited for a while."""
    for soon in (True, False):
        process = harness.spawn([context.python, "-c", KEEPS_GIL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def let_go(_=None):
            process.stdin.write(b"x")
            process.stdin.flush()

        try:
            check(process.stdout.readline() == b"ready\n", "it is not ready")
            with harness.Launcher(context.binary, "inject", "-p", process.pid, "--json", "-o", os.devnull) as launcher:
                while "waiting for the target's interpreter lock" not in (launcher.reader.line(harness.PATIENCE) or ""):
                    check(launcher.process.poll() is None, "it does not wait for the GIL")
                result = interrupted(context, launcher, signal.SIGTERM, *[hung_up, let_go] if soon else [])
            error = result.error()
            if soon:
                result.expect(143)
                check(error["code"] == "INTERRUPTED" and not error["changed_target"], "%s", error)
            else:
                result.expect(10)
                check(error["code"] == "RESIDUE" and error["changed_target"] and "leaves by itself" in error["hint"], "%s", error)
                let_go()
                check(process.stdout.readline() == b"back\n", "it is not back")
            procfs.wait_until(lambda: not procfs.ours(process.pid), 0.1 if soon else 6, "nothing of ours")
        finally:
            harness.reap(process)
            process.stdout.close()
            process.stdin.close()


def under_timeout(context):
    path = context.file("timeout.ndjson")
    with menu(context) as target:
        run(context.binary, "inject", "-p", target.pid, "--json", "-o", path, prefix=["timeout", "1"]).expect(124)
        check(harness.stream_of(path).end["clean"], "not clean")
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))


def terminal_output(context, args, **environment):
    """What mempulse writes to a terminal."""
    master, slave = pty.openpty()
    env = dict(os.environ, **dict({"TERM": "xterm"}, **environment))
    for name in [name for name, value in env.items() if value is None]:
        del env[name]
    chunks = []
    with harness.Launcher(context.binary, *args, stdout=slave, env=env) as launcher:
        os.close(slave)
        deadline = time.monotonic() + harness.PATIENCE
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(master, 65536)
            except OSError:
                break
            if not chunk:
                break
            chunks.append(chunk)
        launcher.result().expect(0)
    os.close(master)
    return b"".join(chunks)


# environment, --color, colour expected
COLOURS = (
    ({"NO_COLOR": None}, "auto", True), ({"NO_COLOR": "1"}, "auto", False), ({"NO_COLOR": ""}, "auto", True),
    ({"NO_COLOR": None, "TERM": "dumb"}, "auto", False), ({"NO_COLOR": None}, "never", False), ({"NO_COLOR": "1"}, "always", True),
)


def colours(context):
    with harness.Target(context.python, "fib") as target:
        for environment, when, wanted in COLOURS:
            text = terminal_output(context, ["inject", "-p", target.pid, "-n", "20", "--color", when], **environment)
            check((b"\x1b[" in text) == wanted, "colour with %s, --color %s: %s", environment, when, not wanted)
        piped = run(context.binary, "inject", "-p", target.pid, "-n", "20").expect(0)
        check("\x1b[" not in piped.out, "colour in a pipe")
        for when, wanted in ("auto", False), ("always", True):
            path = context.file("%s.txt" % when)
            terminal_output(context, ("inject", "-p", target.pid, "-d", "300ms", "-o", path, "--color", when), NO_COLOR=None)
            with open(path, "rb") as file:
                check((b"\x1b" in file.read()) == wanted, "--color %s, in a file", when)


# --- sessions beside each other ------------------------------------------------------------------

def second_session(context):
    with menu(context) as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            error = run(context.binary, "inject", "-p", target.pid, "--json", "--depth", "7").expect(6).error()
            check(error["code"] == "BUSY_SESSION", "%s", error)
            check("-p %d" % target.pid in error["hint"], "the hint is for no process: %s", error)
            check(str(launcher.process.pid) in error["message"], "the launcher is not named: %s", error)
            again = run(context.binary, "inject", "-p", target.pid).expect(0)
            check("already" in again.err, "it does not say so\n%s", again)
            launcher.signal(signal.SIGINT)
            launcher.result().expect(130)


def replaced(context):
    with menu(context) as target:
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "-o", os.devnull) as first:
            first.wait_attached()
            run(context.binary, "inject", "-p", target.pid, "--depth", "7", "--replace", "-d", "200ms").expect(0)
            first.result().expect(0)
        target.check_untouched()


def nothing_to_detach(context):
    with menu(context) as target:
        result = run(context.binary, "detach", "-p", target.pid).expect(0)
        check("nothing" in result.out, "it does not say so\n%s", result)
        run(context.binary, "detach", "-p", target.pid, "--strict").expect(7)
        found = json.loads(run(context.binary, "detach", "-p", target.pid, "--json").expect(0).out)
        check(found["was_injected"] is False and found["clean"] is True, "%s", found)
        run(context.binary, "detach", "-p", "999999999").expect(3)


def status(context):
    with menu(context) as target:
        run(context.binary, "status", "-p", target.pid, "--strict").expect(7)
        check("not injected" in run(context.binary, "status", "-p", target.pid).expect(0).out, "it does not say so")
        with harness.Launcher(context.binary, "inject", "-p", target.pid, "--depth", "5", "-o", os.devnull) as launcher:
            launcher.wait_attached()
            found = json.loads(run(context.binary, "status", "-p", target.pid, "--json").expect(0).out)
            check(found["injected"] and found["alive"] and found["launcher_pid"] == launcher.process.pid, "%s", found)
            check(found["options"]["depth"] == 5 and found["state"] == "hooked", "%s", found)
            check(found["options"]["max_overhead_ppm"] == 20000 and found["governor"]["stage"] in governor.STAGES, "%s", found)
            with harness.all_processes:
                check(str(target.pid) in run(context.binary, "status").expect(0).out, "status without a pid does not list it")
            launcher.signal(signal.SIGTERM)
            launcher.result().expect(143)
        found = json.loads(run(context.binary, "status", "-p", target.pid, "--json").expect(0).out)
        check(found["injected"] is False, "%s", found)
    run(context.binary, "status", "-p", "999999999").expect(3)


TESTS = (
    ("no such process", no_such_process), ("exited process", exited_process), ("zombie", zombie),
    ("not Python", not_python), ("Python 2.7", python2), ("stopped target", stopped),
    ("already traced", already_traced), ("unprivileged user", unprivileged), ("own process, unprivileged", own_process),
    ("usage errors", usage), ("usage errors as JSON", usage_json), ("help and version", help_and_version),
    ("positional pid", positional), ("durations", durations), ("count", count), ("filters", filters), ("min-bytes", min_bytes),
    ("thread filter", thread), ("depths", depths), ("fail-on", fail_on), ("summary", summary), ("quiet", quiet),
    ("output is checked first", output_first), ("output names", output_names), ("full disk", disk_full),
    ("reader leaves", reader_leaves), ("idle reader leaves", idle_reader_leaves), ("reader sleeps", reader_sleeps),
    ("signals to the launcher", signals), ("signals while a safe point is looked for", signals_early_search), ("Ctrl-Z while detaching", suspend_key),
    ("signals while another is waited for", signals_early_lock),
    ("signals while the GIL is waited for", signals_early_gil), ("under timeout(1)", under_timeout), ("colours", colours),
    ("second session", second_session), ("replace", replaced), ("nothing to detach", nothing_to_detach),
    ("status", status),
)
SHORT = ("no such process", "not Python", "usage errors", "help and version", "reader leaves", "output is checked first")
EVERYWHERE = ("filters", "min-bytes", "thread filter", "depths", "signals while the GIL is waited for")  # these depend on the kind of hook


def tests(short, everywhere=False):
    for name, function in TESTS:
        if name in SHORT if short else not everywhere or name in EVERYWHERE:
            yield "cli " + name, function
