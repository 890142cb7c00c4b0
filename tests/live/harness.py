"""Starting targets and launchers, talking to them, and leaving nothing behind."""
import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib

import procfs

HERE = os.path.dirname(os.path.abspath(__file__))
TARGETS = os.path.join(HERE, "targets")
SLOW = float(os.environ.get("MEMPULSE_SLOW", "1"))  # this machine takes so many times longer (an emulated one)
PATIENCE = 30 * SLOW  # seconds for anything that is expected at once; machines can be slow


class Failure(AssertionError):
    """A test's finding; its text is all that is needed to understand it."""


class Skip(Exception):
    """Why a test cannot be run here."""


def check(condition, text, *args):
    if not condition:
        raise Failure(text % args if args else text)


# --- processes of ours ------------------------------------------------------------

running = set()
running_lock = threading.Lock()
all_processes = threading.Lock()  # held by who looks at every process, and by who has one that can't be looked at


def spawn(argv, **options):
    """A process in a session of its own, killed at the latest when we end."""
    process = subprocess.Popen(argv, start_new_session=True, **options)
    with running_lock:
        running.add(process)
    return process


def reap(process):
    """Ends a process and its whole group; harmless when it has ended."""
    if process.poll() is None:
        kill_group(process.pid)
    process.wait()
    with running_lock:
        running.discard(process)


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass


@atexit.register
def kill_all():
    with running_lock:
        for process in list(running):
            kill_group(process.pid)


class LineReader:
    """Lines of a pipe, each waited for with a deadline."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = b""

    def line(self, seconds):
        """The next line, or None when the pipe was closed."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise Failure("no answer within %d s; so far: %r" % (seconds, self.buffer))
            chunk = os.read(self.fd, 65536)
            if not chunk:
                return None
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode("utf-8", "replace")


# --- a target -------------------------------------------------------------------------

class Target:
    """A process in one of the states of targets/states.py; see work.py for its side.
    Used in a `with`; on the way out it is stopped and its silence on stdio checked."""

    def __init__(self, python, state, script="states.py", prefix=(), run=True):
        to_target, self.to = os.pipe()
        self.fro, from_target = os.pipe()
        self.stdio = tempfile.TemporaryFile()
        argv = list(prefix) + [python, "-B", os.path.join(TARGETS, script), state, str(to_target), str(from_target)]
        self.process = spawn(argv, pass_fds=(to_target, from_target), stdin=subprocess.DEVNULL,
                             stdout=self.stdio, stderr=self.stdio, env=target_environment())
        os.close(to_target)
        os.close(from_target)
        self.pid = self.process.pid
        self.reader = LineReader(self.fro)
        self.state = state
        self.account = None
        self.hello = self.answer()
        if "skip" in self.hello:
            self.close()
            raise Skip("%s: %s" % (python, self.hello["skip"]))
        self.before = procfs.Snapshot(self.pid)
        if run:
            self.run()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None and self.process.poll() is None and self.account is None:
                self.stop()
            elif isinstance(error, AssertionError):
                raise Failure("%s\n%s" % (error, self.describe())) from error
        finally:
            self.close()

    def close(self):
        reap(self.process)
        for fd in (self.to, self.fro):
            os.close(fd)
        self.stdio.close()

    def describe(self):
        """What a reader of a failure needs."""
        text = ["--- target %d (%s), state %s" % (self.pid, self.hello.get("version"), self.state)]
        try:
            text += ["--- its maps, without those of files", anonymous_maps(self.pid)]
        except OSError:
            text.append("it is gone, status %s" % self.process.poll())
        return "\n".join(text + ["--- its stdio", self.said()])

    def said(self):
        self.stdio.seek(0)
        return self.stdio.read().decode("utf-8", "replace")

    def send(self, command):
        os.write(self.to, (command + "\n").encode())

    def answer(self, seconds=PATIENCE):
        line = self.reader.line(seconds)
        if line is None:
            self.process.wait(PATIENCE)
            raise Failure("the target ended with status %s:\n%s" % (self.process.returncode, self.said()))
        return json.loads(line)

    def ask(self, command, seconds=PATIENCE):
        self.send(command)
        return self.answer(seconds)

    def run(self):
        check(self.ask("run").get("running"), "the target does not run")

    def grow(self, calls, pages):
        check(self.ask("grow %d %d" % (calls, pages)).get("grown") == calls, "the target did not grow")

    def work(self, steps):
        """Lets it work: a command is looked at after each step."""
        for _ in range(steps):
            check(self.ask("ping").get("pong"), "the target does not answer")

    def pause(self):
        """Stands still; a snapshot of that moment."""
        check(self.ask("pause").get("paused"), "the target does not pause")
        return procfs.Snapshot(self.pid)

    def resume(self):
        self.send("run")

    def check_untouched(self, context=""):
        """Pauses it; nothing may differ from the moment before the first session."""
        differences = procfs.compare(self.before, self.pause())
        check(not differences, "the target is not as before:\n%s\n%s", "\n".join(differences), context)

    def stop(self):
        """Ends it by its own will and checks that nothing disturbed it."""
        self.account = self.ask("stop")["report"]
        status = self.process.wait(PATIENCE)
        check(status == 0, "the target ended with %d:\n%s", status, self.said())
        check(self.said() == "", "the target's stdio is not empty:\n%s", self.said())
        check_account(self.account, self.hello["reference"])
        return self.account


def anonymous_maps(pid):
    return "\n".join(m.line for m in procfs.mappings(pid) if not m.inode or procfs.OURS.search(m.line))


def target_environment():
    """Reproducible, and free of what the driver was started with."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return dict(keep, PYTHONHASHSEED="0", LC_ALL="C.UTF-8")


def undisturbed(reference, steps):
    """The checksum of so many steps of a run in which nothing happened."""
    value = 0
    for i in range(steps):
        value = zlib.crc32(repr(reference[i % len(reference)]).encode(), value) & 0xFFFFFFFF
    return value


def check_account(account, reference):
    check(account["eintr"] == 0, "%d system calls came back with EINTR", account["eintr"])
    check(account["wrong"] == 0, "%d of %d steps gave another value", account["wrong"], account["steps"])
    check(account["checksum"] == undisturbed(reference, account["steps"]),
          "the checksum after %d steps differs from an undisturbed run's", account["steps"])
    check(account["errors"] == 0, "%d system calls failed: %s", account["errors"], account["extra"])
    if account["signals_sent"]:
        check(account["signals_sent"] == account["signals_seen"], "%d signals were sent, %d arrived",
              account["signals_sent"], account["signals_seen"])


# --- the launcher ---------------------------------------------------------------------------

class Result:
    """A launcher that has ended."""

    def __init__(self, argv, code, out, err):
        self.argv, self.code, self.out, self.err = argv, code, out, err

    def __str__(self):
        return "$ %s\nexit code %s\n--- stdout (%d bytes)\n%s\n--- stderr\n%s" % (
            " ".join(self.argv), self.code, len(self.out), self.out[-3000:], self.err)

    def expect(self, code):
        wanted = code if isinstance(code, tuple) else (code,)
        check(self.code in wanted, "exit code %s was expected\n%s", code, self)
        return self

    def error(self):
        """The JSON error object on stderr."""
        found = [line for line in self.err.splitlines() if line.startswith("{")]
        check(len(found) == 1, "one JSON error object was expected\n%s", self)
        return json.loads(found[0])


def faulty():
    """The binary with fault points (src/base/fault.h)."""
    path = os.path.join(os.environ.get("BUILD", "build"), "faults", "mempulse")
    if not os.access(path, os.X_OK):
        raise Skip("%s is not built" % path)
    return path


class Launcher:
    """A mempulse that runs. Its stderr is read for the banner, which says that it is hooked."""
    BANNER = "attached to"

    def __init__(self, binary, *args, **options):
        self.argv = [binary] + [str(arg) for arg in args]
        self.out = tempfile.TemporaryFile()
        options.setdefault("stdout", self.out)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("preexec_fn", getattr(binary, "before_exec", None))
        prefix = list(options.pop("prefix", ()))
        self.process = spawn(prefix + self.argv, stderr=subprocess.PIPE, **options)
        self.reader = LineReader(self.process.stderr.fileno())
        self.err = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        reap(self.process)
        self.process.stderr.close()
        self.out.close()

    def wait_attached(self, seconds=PATIENCE):
        while True:
            line = self.reader.line(seconds)
            if line is None:
                raise Failure("the launcher ended before it was attached\n%s" % self.result())
            self.err.append(line)
            if self.BANNER in line:
                return

    def signal(self, number):
        self.process.send_signal(number)

    def result(self, seconds=PATIENCE):
        """Waits for its end."""
        while True:
            line = self.reader.line(seconds)
            if line is None:
                break
            self.err.append(line)
        self.err.append(self.reader.buffer.decode("utf-8", "replace"))
        code = self.process.wait(seconds)
        self.out.seek(0)
        return Result(self.argv, code, self.out.read().decode("utf-8", "replace"), "\n".join(self.err))


def run(binary, *args, **options):
    """Runs mempulse to its end."""
    seconds = options.pop("seconds", 2 * PATIENCE)
    with Launcher(binary, *args, **options) as launcher:
        return launcher.result(seconds)


# --- its output --------------------------------------------------------------------------------

class Stream:
    """NDJSON, parsed and checked for its frame."""
    CHECKER = os.path.join(os.path.dirname(HERE), "ndjson_check.py")
    CHECKER_BYTES = 60000  # of a larger file it would take too long

    def __init__(self, text, path=None):
        self.rows = [parse_row(line) for line in text.splitlines()]
        check(self.rows, "the stream is empty")
        check(text.endswith("\n"), "the stream does not end with a newline")
        check(self.rows[0].get("type") == "meta" and self.rows[0].get("v") == 1, "the first row is no meta: %s", self.rows[0])
        check(self.rows[-1].get("type") == "end", "the last row is no end: %s", self.rows[-1])
        if path and os.path.exists(self.CHECKER) and len(text) < self.CHECKER_BYTES:
            done = subprocess.run(["/usr/bin/python3", self.CHECKER, path], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=2 * PATIENCE)
            check(done.returncode == 0, "ndjson_check.py: %s", done.stdout.decode("utf-8", "replace")[-3000:])

    @property
    def meta(self):
        return self.rows[0]

    @property
    def end(self):
        return self.rows[-1]

    def of(self, kind, function=None):
        return [row for row in self.rows if row["type"] == kind
                and (function is None or bare(row.get("function", "")) == function)]

    def rank(self, function):
        found = self.of("rank", function)
        check(len(found) == 1, "%d ranks of %s, 1 was expected; ranked: %s", len(found), function,
              [row.get("function") for row in self.of("rank")])
        return found[0]


def parse_row(line):
    try:
        return json.loads(line)
    except ValueError as error:
        raise Failure("not JSON (%s): %r" % (error, line))


def bare(name):
    """Up to 3.10 a code object knows no qualified name."""
    return name.rpartition(".")[2]


def stream_of(path, schema=True):
    with open(path, encoding="utf-8") as file:
        return Stream(file.read(), path if schema else None)


# --- interpreters ---------------------------------------------------------------------------------

WANTED = ("3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


class Interpreter:
    def __init__(self, path, name, version):
        self.path, self.name, self.version = path, name, version

    @property
    def monitoring(self):
        """Hooked by sys.monitoring: no thunk that could have to stay."""
        return self.version >= (3, 12)


def probe(path, name):
    """An interpreter, or None when it does not run."""
    try:
        out = subprocess.check_output([path, "-c", "import sys; print(sys.version_info[0], sys.version_info[1])"],
                                      stderr=subprocess.DEVNULL, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    return Interpreter(path, name, tuple(int(part) for part in out.split()))


def pyenv_versions():
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    try:
        names = os.listdir(os.path.join(root, "versions"))
    except OSError:
        names = []
    return {name: os.path.join(root, "versions", name, "bin", "python3") for name in names}


def find_interpreters():
    """(found, names of the missing ones). $PYTHONS, a list with colons, replaces the search."""
    if os.environ.get("PYTHONS"):
        paths = os.environ["PYTHONS"].split(":")
        return [i for i in (probe(path, "py:" + path.replace("/", "_")) for path in paths) if i], []
    found, missing = [], []
    system = probe("/usr/bin/python3", "system")
    if system:
        found.append(system)
    versions = pyenv_versions()
    for wanted in WANTED:
        at = [path for name, path in sorted(versions.items()) if name.startswith(wanted + ".")]
        interpreter = probe(at[0], "py" + wanted) if at else None
        if interpreter:
            found.append(interpreter)
        else:
            missing.append("py" + wanted)
    return found, missing
