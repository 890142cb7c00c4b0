"""Throughput and latency of servers under wrk, with and without mempulse."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import measure
from serve import GROW_EVERY

CONNECTIONS = 8
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


class Server(object):
    """What measure.Attached needs of a target: pid, grow, grown()."""
    grow = 8 * 4096

    def __init__(self, python, kind):
        if not shutil.which("wrk"):
            raise measure.Skip("wrk is not installed")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.said = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command(python, kind), stdin=subprocess.DEVNULL, stdout=self.said,
                                        stderr=self.said, cwd=measure.HERE, start_new_session=True,
                                        env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1", BENCH_DJANGO="1"))
        try:
            self.wait()
            self.pid = self.worker() if kind == "gunicorn" else self.process.pid
        except Exception:
            self.close()
            raise

    def command(self, python, kind):
        if kind == "asyncio":
            return [python, "serve.py", "asyncio", str(self.port)]
        argv = [python, "-m", "gunicorn", "-w", "1", "-b", "127.0.0.1:%d" % self.port, "--log-level", "error"]
        return argv + ["--no-control-socket"] * has_control(python) + ["serve:application"]

    def wait(self):
        for _ in range(200):
            if self.process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                    s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    if s.recv(100).startswith(b"HTTP/1.1 200"):
                        return
            except OSError:
                pass
            time.sleep(0.05)
        self.said.seek(0)
        raise measure.Skip("the server does not serve: %s" % self.said.read().decode("utf-8", "replace").strip()[-300:])

    def worker(self):
        with open("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)) as f:
            return int(f.read().split()[0])

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            pass
        self.process.wait()
        self.said.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def grown(self):
        return 0

    def load(self, seconds):
        """Requests a second, p99 in ms, requests."""
        out = subprocess.run(["wrk", "-t1", "-c%d" % CONNECTIONS, "-d%ds" % seconds, "--latency",
                              "http://127.0.0.1:%d/" % self.port], stdout=subprocess.PIPE, text=True).stdout
        rate = measure.number(r"Requests/sec:\s+([\d.]+)", out)
        p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", out)
        if not rate or not p99:
            raise measure.Skip("wrk measured nothing")
        return rate, float(p99.group(1)) * UNITS[p99.group(2)], int(measure.number(r"(\d+) requests in", out))


def has_control(python):
    """Newer gunicorns open a control socket in the home folder unless told not to."""
    text = subprocess.run([python, "-m", "gunicorn", "--help"], stdout=subprocess.PIPE, text=True).stdout
    return "--no-control-socket" in text


def alternate(python, kind, tool, pairs, seconds):
    """The ratios of throughput (with / without: 1 is best) and of p99."""
    with Server(python, kind) as server:
        server.load(1)
        plain, with_tool, found = [], [], []
        for i in range(pairs + 1):
            plain.append(server.load(seconds))
            if i == pairs:
                break
            tool.begin(server)
            with_tool.append(server.load(seconds))
            found.append(tool.end(server))
            found[-1]["requests_grown"] = with_tool[-1][2] // GROW_EVERY
    neighbours = [(plain[i], plain[i + 1]) for i in range(pairs)]
    return {
        "throughput": measure.spread([t[0] * 2 / (a[0] + b[0]) for t, (a, b) in zip(with_tool, neighbours)]),
        "p99": measure.spread([t[1] * 2 / (a[1] + b[1]) for t, (a, b) in zip(with_tool, neighbours)]),
        "noise": measure.spread([a[0] / b[0] for a, b in neighbours]),
        "plain_rps": measure.spread([p[0] for p in plain]), "plain_p99_ms": measure.spread([p[1] for p in plain]),
        "tool_rps": measure.spread([p[0] for p in with_tool]), "tool_p99_ms": measure.spread([p[1] for p in with_tool]),
        "found": found}
