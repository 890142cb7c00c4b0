"""Throughput and latency of servers under wrk (or client.py), with and without mempulse."""
import concurrent.futures
import math
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import bounded
import measure

CONNECTIONS = 8
SETTLE = 3 # seconds of load after an attach that are left out, as in all windows
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


def cpu_ns(pid):
    """Nanoseconds on a CPU, of all threads that live (schedstat: exact, where stat counts ticks)."""
    total = 0
    for tid in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/schedstat" % (pid, tid)) as f:
            total += int(f.read().split()[0])
    return total


def apart(twins):
    """Both servers onto the last CPU, all else, this process and its children, off it."""
    cpus = os.sched_getaffinity(0)
    last = max(cpus)
    for server in twins:
        for pid in {server.pid, server.process.pid}:
            for tid in os.listdir("/proc/%d/task" % pid):
                os.sched_setaffinity(int(tid), {last})
    os.sched_setaffinity(0, cpus - {last} or cpus)
    return cpus


class Loaded(object):
    """A window: what the client saw, and what it cost the server."""

    def __init__(self, server, seconds):
        before = cpu_ns(server.pid)
        self.rate, self.p99, self.requests = server.load(seconds)
        self.cpu_us = (cpu_ns(server.pid) - before) / 1e3 / self.requests


def both(twins, seconds):
    """The same window of both: they share the CPU."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda server: Loaded(server, seconds), twins))


def crossed(python, kind, tool, pairs, seconds):
    """Two servers on one CPU under one client each, the tool put into each in turn: the ratios of
    throughput (with / without: 1 is best), of CPU time a request and of p99."""
    with Server(python, kind) as one, Server(python, kind) as other:
        cpus = apart((one, other))
        try:
            return crossed_pairs((one, other), tool, pairs, seconds)
        finally:
            os.sched_setaffinity(0, cpus)


def crossed_pairs(twins, tool, pairs, seconds):
    both(twins, SETTLE)
    kinds = {"throughput": lambda w: w.rate, "cpu": lambda w: w.cpu_us, "p99": lambda w: w.p99}
    ratios, noise, found, plain, with_tool = {k: [] for k in kinds}, [], [], [], []
    for _ in range(pairs):
        windows = []
        for target, twin in (twins, twins[::-1]):
            tool.begin(target)
            both((target, twin), SETTLE)
            windows.append(both((target, twin), seconds))
            found.append(dict(tool.end(target), deep=True))
            with_tool.append(windows[-1][0])
            plain.append(windows[-1][1])
        for name, of in kinds.items():
            ratios[name].append(math.sqrt(math.prod(of(a) / of(b) for a, b in windows)))
        a, b = both(twins, seconds)
        noise.append(a.cpu_us / b.cpu_us)
    middle = statistics.median(noise)
    result = {name: measure.spread(values) for name, values in ratios.items()}
    result.update(twins=True, noise=measure.spread([n / middle for n in noise]), found=found)
    for name, of in (("rps", lambda w: w.rate), ("p99_ms", lambda w: w.p99), ("cpu_us", lambda w: w.cpu_us)):
        result["plain_" + name] = measure.spread([of(w) for w in plain])
        result["tool_" + name] = measure.spread([of(w) for w in with_tool])
    return result
