"""Throughput and latency of servers under wrk (or client.py), with and without mempulse."""
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

import bounded
import measure

CONNECTIONS = 8
SETTLE = 2 # seconds of load after an attach that are left out, as in all windows
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


class Server(object):
    """What measure.Attached needs of a target: pid, grow, grown()."""
    grow = 8 * 4096

    def __init__(self, python, kind):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.said, self.count = tempfile.TemporaryFile(), tempfile.NamedTemporaryFile()
        self.count.write(bytes(8))
        self.count.flush()
        env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", BENCH_GROWN=self.count.name)
        env.update({"BENCH_DJANGO": "1"} if kind == "gunicorn" else {})
        self.process = bounded.spawn(self.command(python, kind), stdin=subprocess.DEVNULL, stdout=self.said,
                                     stderr=self.said, cwd=measure.HERE, env=env)
        try:
            self.wait()
            self.pid = self.worker() if kind == "gunicorn" else self.process.pid
        except BaseException:
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
        bounded.kill(self.process)
        self.said.close()
        self.count.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def grown(self):
        with open(self.count.name, "rb") as f:
            return struct.unpack("q", f.read())[0]

    def load(self, seconds):
        """Requests a second, p99 in ms, requests."""
        client = ["wrk", "-t1", "-c%d" % CONNECTIONS, "-d%ds" % seconds, "--latency",
                  "http://127.0.0.1:%d/" % self.port]
        if not shutil.which("wrk"):
            client = [sys.executable, "client.py", str(self.port), str(CONNECTIONS), str(seconds)]
        out = bounded.run(client, seconds + 20, stdout=subprocess.PIPE, text=True, cwd=measure.HERE).stdout
        rate = measure.number(r"Requests/sec:\s+([\d.]+)", out)
        p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", out)
        if not rate or not p99:
            raise measure.Skip("the client measured nothing")
        return rate, float(p99.group(1)) * UNITS[p99.group(2)], int(measure.number(r"(\d+) requests in", out))


def has_control(python):
    """Newer gunicorns open a control socket in the home folder unless told not to."""
    text = bounded.run([python, "-m", "gunicorn", "--help"], 30, stdout=subprocess.PIPE, text=True).stdout
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
            server.load(SETTLE)
            with_tool.append(server.load(seconds))
            found.append(dict(tool.end(server), deep=True))
    neighbours = [(plain[i], plain[i + 1]) for i in range(pairs)]
    return {
        "throughput": measure.spread([t[0] * 2 / (a[0] + b[0]) for t, (a, b) in zip(with_tool, neighbours)]),
        "p99": measure.spread([t[1] * 2 / (a[1] + b[1]) for t, (a, b) in zip(with_tool, neighbours)]),
        "noise": measure.spread([a[0] / b[0] for a, b in neighbours]),
        "plain_rps": measure.spread([p[0] for p in plain]), "plain_p99_ms": measure.spread([p[1] for p in plain]),
        "tool_rps": measure.spread([p[0] for p in with_tool]), "tool_p99_ms": measure.spread([p[1] for p in with_tool]),
        "found": found}
