"""Measuring a target: windows with and without a tool.

*Twins* are two processes with the same load on one CPU, which the kernel gives to the
one and to the other every few milliseconds: whatever slows this machine down slows both.
The tool is attached to one, then to the other. A ratio is the process's CPU time for a
unit of work over its twin's; a pair's is the geometric mean of both, in which what makes
the two differ by themselves cancels out.

Where that can't be (several threads, tools whose cost is no CPU time of the process),
windows with the tool and without take turns, and a ratio is the time of a unit with the
tool over the mean time in the windows around it; `cpu` is the same with the process's
CPU time instead of the clock's."""
import json
import math
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import bounded
from bounded import Skip

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE = 60
SETTLE = 0.15  # after attaching: the first lines and calls are looked at more closely, once
DETACH = 15    # seconds: a session that has not ended by then is a finding


class Target(object):
    """A process that runs a load; see target.py. `prefix` goes between the
    interpreter and the script, for tools that must start the program."""

    def __init__(self, python, load, args=(), prefix=()):
        self.folder = tempfile.mkdtemp(prefix="bench-")
        path = os.path.join(self.folder, "s")
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(1)
        server.settimeout(PATIENCE)
        self.said = open(os.path.join(self.folder, "said"), "w+")
        self.process = bounded.spawn(
            [os.path.abspath(python)] + list(prefix) + [os.path.join(HERE, "target.py"), path, load] + [str(a) for a in args],
            stdin=subprocess.DEVNULL, stdout=self.said, stderr=self.said, cwd=self.folder,
            env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
        self.batches, self.windows, self.failed = [], [], []
        self.news = threading.Condition()
        self.socket = None
        try:
            self.socket = self.accept(server)
            self.lines = self.socket.makefile("r")
            self.socket.settimeout(PATIENCE)
            hello = json.loads(self.lines.readline() or '{"skip": "the target ended at once"}')
            self.socket.settimeout(None)
            if "skip" in hello:
                text = self.output()
                raise Skip(hello["skip"] + ("; it said: " + text.strip()[-200:] if text else ""))
        except socket.timeout:
            self.close()
            raise Skip("the load was not ready in %d s" % PATIENCE)
        except BaseException:
            self.close()
            raise
        finally:
            server.close()
        self.pid, self.version, self.grow = hello["hello"], hello["version"], hello["grow"]
        threading.Thread(target=self.listen, daemon=True).start()

    def accept(self, server):
        deadline = time.monotonic() + PATIENCE
        server.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                connection = server.accept()[0]
                connection.settimeout(None)
                return connection
            except socket.timeout:
                if self.process.poll() is not None:
                    break
        raise Skip("the target did not start: %s" % self.output().strip()[-300:])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        bounded.kill(self.process)
        if self.socket:
            self.socket.close()
        self.said.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self):
        self.said.flush()
        with open(self.said.name, errors="replace") as f:
            return f.read()

    def listen(self):
        try:
            for line in self.lines:
                self.heard(json.loads(line))
        except (OSError, ValueError):
            pass  # we closed it, or it was killed in the middle of a line

    def heard(self, message):
        with self.news:
            if "b" in message:
                self.batches.append(message["b"])
            elif "w" in message:
                self.windows.append(message["w"])
            elif "failed" in message:
                self.failed.append(message["failed"])
            self.news.notify_all()

    def send(self, text):
        self.socket.sendall((text + "\n").encode())

    def settle(self, count=10, patience=PATIENCE):
        """Waits until the batches have their size."""
        with self.news:
            if not self.news.wait_for(lambda: len(self.batches) >= count or self.process.poll() is not None, patience) \
                    or self.process.poll() is not None:
                raise Skip("the load does not run: %s" % self.output().strip()[-300:])

    def tool_window(self, name, seconds, depth):
        """One window with a tool that works inside the process."""
        with self.news:
            windows, failed = len(self.windows), len(self.failed)
        self.send("tool %s %g %d" % (name, seconds, depth))
        with self.news:
            if not self.news.wait_for(lambda: len(self.windows) > windows or len(self.failed) > failed or
                                      self.process.poll() is not None, PATIENCE):
                raise Skip("%s takes longer than %d s for %g s of work" % (name, PATIENCE, seconds))
            if len(self.failed) > failed:
                raise Skip(self.failed[-1])
            if len(self.windows) == windows:
                raise Skip("the target ended under %s: %s" % (name, self.output().strip()[-300:]))
            return Window([self.windows[-1]])

    def between(self, start, end):
        with self.news:
            return Window([b for b in self.batches if b[1] >= start and b[2] <= end])

    def longest(self):
        """Of the last batches, in seconds: only whole ones count in a window."""
        with self.news:
            return max(b[2] - b[1] for b in self.batches[-5:])

    def grown(self):
        """How often the known function has grown the process so far."""
        with self.news:
            return self.batches[-1][5] if self.batches else 0


class Window(object):
    """What the batches of a time span did."""

    def __init__(self, batches):
        self.units = sum(b[0] for b in batches)
        self.wall = sum(b[2] - b[1] for b in batches)
        self.cpu = sum(b[4] - b[3] for b in batches)
        self.extra = max([b[6] for b in batches if b[6] is not None], default=None)
        self.batches = len(batches)

    def per_unit(self):
        if not self.units:
            raise Skip("no unit of work was done in a window")
        return self.wall / self.units

    def cpu_per_unit(self):
        if not self.units or not self.cpu:
            raise Skip("no unit of work was done in a window")
        return self.cpu / self.units


# --- results -----------------------------------------------------------------------------

def spread(values):
    """Median, quartiles and number of values."""
    ordered = sorted(values)
    if len(ordered) == 1:
        return {"median": ordered[0], "q1": ordered[0], "q3": ordered[0], "n": 1}
    q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "n": len(ordered)}


def ratios(plain, tool):
    """plain[i] and plain[i + 1] are the windows around tool[i]."""
    wall = [t.per_unit() * 2 / (plain[i].per_unit() + plain[i + 1].per_unit()) for i, t in enumerate(tool)]
    cpu = [t.cpu_per_unit() * 2 / max(1e-12, plain[i].cpu_per_unit() + plain[i + 1].cpu_per_unit())
           for i, t in enumerate(tool)]
    noise = [plain[i].per_unit() / plain[i + 1].per_unit() for i in range(len(tool))]
    return {"wall": spread(wall), "cpu": spread(cpu), "noise": spread(noise),
            "plain_us": spread([p.per_unit() * 1e6 for p in plain]),
            "tool_us": spread([t.per_unit() * 1e6 for t in tool])}


def pin(twins):
    """Both onto one CPU, the last; their threads to come too."""
    for target in twins:
        target.settle()
        for tid in os.listdir("/proc/%d/task" % target.pid):
            os.sched_setaffinity(int(tid), {max(os.sched_getaffinity(0))})


def both(target, twin, start, end):
    return target.between(start, end), twin.between(start, end)


def crossed(twins, work, pairs, seconds):
    """work(target, twin): the windows of both while the tool is in target."""
    pin(twins)
    found, noise, plain, with_tool = [], [], [], []
    for _ in range(pairs):
        product = 1.0
        for target, twin in (twins, twins[::-1]):
            tool_s, plain_s = [window.cpu_per_unit() for window in work(target, twin)]
            product *= tool_s / plain_s
            with_tool.append(tool_s * 1e6)
            plain.append(plain_s * 1e6)
        found.append(math.sqrt(product))
        noise += differ(twins, 1, seconds)
    middle = statistics.median(noise)
    return {"wall": spread(found), "twins": True, "noise": spread([n / middle for n in noise]),
            "plain_us": spread(plain), "tool_us": spread(with_tool)}


def differ(twins, windows, seconds):
    """How twins differ by themselves: CPU time for a unit of the first over that of the second."""
    found = []
    for _ in range(windows):
        start = time.monotonic()
        time.sleep(seconds)
        first, second = both(twins[0], twins[1], start, time.monotonic())
        found.append(first.cpu_per_unit() / second.cpu_per_unit())
    return found


def visit(tool, target, seconds, settle):
    """Attaches, waits and detaches: when the window began and ended, and what the tool found."""
    tool.begin(target)
    time.sleep(settle)
    start = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    return start, end, tool.end(target)


def crossed_attached(twins, tool, pairs, seconds, settle=SETTLE):
    """Twins, and a tool that is attached from outside."""
    found = []
    for target in twins:
        target.settle()
        seconds = max(seconds, min(3.0, 12 * target.longest()))

    def work(target, twin):
        start, end, what = visit(tool, target, seconds, settle)
        found.append(what)
        windows = both(target, twin, start, end)
        time.sleep(0.05)
        return windows
    result = crossed(twins, work, pairs, seconds)
    result["found"] = found
    return result


def crossed_inside(twins, name, pairs, seconds, depth):
    """Twins, and a tool that the target starts and stops itself around as many units as it
    does in so many seconds without it. A tool that is very slow gets fewer."""
    asked = [seconds]

    def work(target, twin):
        start = time.monotonic()
        window = target.tool_window(name, asked[0], depth)
        twin_window = twin.between(start, time.monotonic())
        if window.wall > 8 * seconds:
            asked[0] = max(0.02, asked[0] * 4 * seconds / window.wall)
        return window, twin_window
    return crossed(twins, work, pairs, seconds)


def alternate(target, tool, pairs, seconds, settle=SETTLE):
    """Plain, tool, plain, tool ... plain in one process. `tool` is attached from
    outside: tool.begin(target) returns when it works, tool.end() when it has gone
    and says what it found."""
    target.settle()
    seconds = max(seconds, min(3.0, 6 * target.longest()))
    plain, with_tool, found = [], [], []
    for i in range(pairs + 1):
        start = time.monotonic()
        time.sleep(seconds)
        plain.append(target.between(start, time.monotonic()))
        if i == pairs:
            break
        start, end, what = visit(tool, target, seconds, settle)
        found.append(what)
        with_tool.append(target.between(start, end))
        time.sleep(0.05)
    result = ratios(plain, with_tool)
    result["found"] = found
    return result, plain, with_tool


def alternate_processes(plain_target, tool_target, pairs, seconds):
    """For tools that must start the program: two processes, one resting."""
    plain_target.settle()
    tool_target.settle()
    windows = {plain_target: [], tool_target: []}
    for target in (plain_target, tool_target):
        target.send("rest")
    for i in range(2 * pairs + 1):
        target = tool_target if i % 2 else plain_target
        target.send("run")
        time.sleep(0.05)
        start = time.monotonic()
        time.sleep(seconds)
        windows[target].append(target.between(start, time.monotonic()))
        target.send("rest")
        time.sleep(0.05)
    for target in (plain_target, tool_target):
        target.send("run")
    return ratios(windows[plain_target], windows[tool_target])


# --- tools that attach from outside ----------------------------------------------------------

class Attached(object):
    """mempulse. found: what its stream says, checked against what the target did."""

    name = "mempulse"

    def __init__(self, program, options=(), fmt="ndjson", keep=False):
        self.argv = [program, "inject"] + list(options) + ["-f", fmt]
        self.fmt = fmt
        self.keep = keep

    def begin(self, target):
        self.output = tempfile.mktemp(".bench")
        began = time.monotonic()
        self.grown = [target.grown()]
        self.process = bounded.spawn(self.argv + ["-o", self.output, "-p", str(target.pid)],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, text=True)
        self.banner = self.process.stderr.readline()
        while "waiting for" in self.banner:  # said before it is attached, where that takes long
            self.banner = self.process.stderr.readline()
        self.latency = time.monotonic() - began
        if "attached" not in self.banner:
            try:
                self.banner += self.process.communicate(timeout=DETACH)[1]
            except subprocess.TimeoutExpired:
                self.banner += "and did not end"
            raise Skip("mempulse: " + self.banner.strip())
        self.grown.append(target.grown())

    def end(self, target):
        self.grown.append(target.grown())
        launcher = cpu_of(self.process.pid)
        ended = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        try:
            said = self.process.communicate(timeout=DETACH)[1]
        except subprocess.TimeoutExpired:
            raise Skip("mempulse did not detach in %d s" % DETACH)
        finally:
            bounded.kill(self.process)
        if hasattr(target, "settle"):  # what grew while it detached
            target.settle(len(target.batches) + 1, DETACH)
        self.grown.append(target.grown())
        found = {"latency": self.latency, "detach": time.monotonic() - ended, "grown": self.grown, "grow": target.grow,
                 "bytes": os.path.getsize(self.output), "code": self.process.returncode,
                 "launcher_cpu": launcher,
                 "pause_us": number(r"paused (\d+) us", self.banner)}
        if self.fmt == "ndjson":
            self.read(found)
        if self.process.returncode not in (0, 10, 128 + signal.SIGINT):
            found["wrong"] = "exit code %d: %s" % (self.process.returncode, said.strip()[-200:])
        os.unlink(self.output)
        return found

    def read(self, found):
        """The end of the stream: statistics, the ranking, the end line."""
        with open(self.output, "rb") as f:
            f.seek(max(0, os.path.getsize(self.output) - 400000))
            tail = f.read().split(b"\n")
        last, events = {}, 0  # the last `stats` no longer counts what the thunk let pass
        for line in tail:
            if line.startswith((b'{"type":"stats"', b'{"type":"end"')):
                message = json.loads(line)
                last[message["type"]] = message
                events = max(events, message.get("events", 0))
            elif line.startswith(b'{"type":"rank"') and b'"function":"grow_known"' in line:
                last["known"] = json.loads(line)
        end, stats = last.get("end"), last.get("stats", {})
        if not end:
            found["wrong"] = "the stream has no end line"
            return
        found.update(records=end["records"], lost=end["lost"], clean=end["clean"], left=end.get("left"), residue=end.get("residue"),
                     cost=end.get("cost_percent"),
                     overhead=end.get("overhead_percent"), governor=end.get("governor"),
                     events=events, hook_ns=stats.get("hook_ns"), rollup_ns=stats.get("rollup_ns"),
                     wall_ns=end["wall_ns"], attributed=end["own_attributed_bytes"])
        known = last.get("known")
        found["known_calls"] = known["calls"] if known else 0
        found["known_bytes"] = known["own_net_bytes"] if known else 0

    @staticmethod
    def check(found):
        """Whether what grew was found; the text says what is wrong. Where the governor
        sampled, the stream says so, and the estimate may be off by four sigmas; while
        it was quiet, it said that, and nothing is expected."""
        if found.get("wrong"):
            return found["wrong"]
        if not found["clean"] and found.get("residue") != ["thunk"]:  # a call that waits for a request has not returned
            return "not clean: %s" % "; ".join(found.get("left") or ["it does not say what is left"])
        # what grew for certain while it was attached, and what grew at all around it
        before, attached, asked, after = found["grown"]
        governor = found.get("governor") or {}
        off = 4 * math.sqrt((after - before) * governor["most_weight"]) if governor.get("most_weight", 1) > 1 else 0
        least, most = asked - attached - 1 - found["lost"] - off, after - before + off
        quiet = governor.get("stage_ns", {}).get("quiet", 0)
        if found.get("deep"):  # below the traced depth: who called it has its growth
            seen = found["attributed"] / found["grow"]
            if seen < 0.98 * least and not quiet:
                return "the target grew %d times, %.1f of these were attributed" % (least, seen)
            return None
        if not (0 if quiet else least) <= found["known_calls"] <= most:
            return "the target grew %d to %d times, %d were seen" % (least, most, found["known_calls"])
        if found["known_bytes"] < 0.98 * found["known_calls"] * found["grow"]:
            return "%d calls grew by %d bytes each, %d in all were seen" % (
                found["known_calls"], found["grow"], found["known_bytes"])
        return None


class PySpy(object):
    name = "py-spy"

    def __init__(self, program):
        self.program = program

    def begin(self, target):
        self.output = tempfile.mktemp(".bench")
        self.process = bounded.spawn([self.program, "record", "-p", str(target.pid), "-o", self.output, "-f", "raw"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        if self.process.poll() is not None:
            raise Skip("py-spy ended with %d" % self.process.returncode)

    def end(self, target):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(DETACH)
        except subprocess.TimeoutExpired:
            raise Skip("py-spy did not end in %d s" % DETACH)
        finally:
            bounded.kill(self.process)
        if os.path.exists(self.output):
            os.unlink(self.output)
        return {}


def cpu_of(pid):
    """Seconds of CPU that a process has used."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def number(pattern, text):
    match = re.search(pattern, text or "")
    return float(match.group(1)) if match else None
