"""Runs inside the interpreter under test: hooks and unhooks many times under load,
unloads the agent each time and puts an inaccessible mapping where it was, so that
whoever still points there crashes.

    cycles.py AGENT_SO COUNT MILLISECONDS [calls|lines [SECONDS]]

SECONDS: what it prints its threads' stacks after, should it not have ended."""
import ctypes
import faulthandler
import gc
import os
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import host  # noqa: E402
import scenarios as sc  # noqa: E402
import wire  # noqa: E402

counts = [0] * 8
stop = False


def recurse(n):
    return recurse(n - 1) + 1 if n else 0


class Finalizer:
    """Takes and leaves the GIL inside a collection. Few at a time: whoever collects has to wait for the GIL for each of them,
    and nobody else collects meanwhile."""
    alive, FEW = 0, 10

    def __init__(self):
        self.me = self
        Finalizer.alive += 1

    def __del__(self):
        time.sleep(0.001)
        Finalizer.alive -= 1


def load(i):
    def child():
        sc.fib(5)
    while not stop:
        counts[i] += 1
        sc.fib(9)
        assert recurse(60) == 60
        assert sc.consume(5) == 10
        assert sc.catcher() == 1
        if i == 0:
            ns = {}
            exec("def f(x):\n    y = x\n    return y\nr = f(3)", ns)
            assert ns["r"] == 3
        if i == 1:
            t = threading.Thread(target=child)
            t.start()
            t.join()
        if i == 2 and counts[i] % 20 == 0 and Finalizer.alive < Finalizer.FEW:
            Finalizer()
        if i == 3 and counts[i] % 50 == 0:
            gc.collect()


class Light:
    """Frames by their heads only: decoding records under the hook would take longer
    than all the rest."""

    def __init__(self):
        self.buf, self.skip, self.full = b"", 0, wire.Session()
        self.nrecords = 0

    def feed(self, data):
        self.buf += data
        while len(self.buf) >= 8:
            size = int.from_bytes(self.buf[:4], "little")
            kind = int.from_bytes(self.buf[4:6], "little")
            if len(self.buf) < size:
                return
            if kind == wire.RECORDS:
                self.nrecords += int.from_bytes(self.buf[6:8], "little")
            elif kind in (wire.HELLO, wire.HOOKED, wire.FAILED, wire.BYE):
                self.full.frame(kind, 1, self.buf[8:size])
            self.buf = self.buf[size:]


def agent_range():
    lines = [line for line in open("/proc/self/maps") if "agent" in line and ".so" in line]
    return int(lines[0].split("-")[0], 16), int(lines[-1].split("-")[1].split()[0], 16)


def forbid(lo, hi):
    mmap = host.libc.mmap
    mmap.restype = ctypes.c_void_p
    mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    at = mmap(lo, hi - lo, 0, 0x100022, -1, 0)  # MAP_FIXED_NOREPLACE
    return at == lo


def cycle(path, ms, options, ret_wanted=0):
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    agent = host.Agent(path, theirs.detach())
    lo, hi = agent_range()
    ours.sendall(wire.go(**options))
    agent.start()
    light = Light()
    s = light.full
    end = time.time() + ms / 1000.0
    ours.settimeout(0.005)
    asked = False
    while s.bye is None:
        try:
            light.feed(ours.recv(1 << 18))
        except socket.timeout:
            pass
        if not asked and time.time() >= end and s.hooked and s.bye is None:
            ours.sendall(wire.frame(wire.DETACH))
            asked = True
        if s.failed:
            raise SystemExit("failed: %r" % (s.failed,))
        if time.time() > end + 120:
            raise SystemExit("stuck in state %d" % agent.state())
    ret = host.u64()
    host.libc.pthread_join(agent.thread, ctypes.byref(ret))
    assert ret.value & 0xffffffff == ret_wanted, ret.value
    agent.close()
    ours.close()
    if not forbid(lo, hi):  # another thread has mapped something there meanwhile
        assert not [line for line in open("/proc/self/maps") if path in line], "the agent is still mapped"
        lo = hi = None
    host.libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    assert light.nrecords == s.bye.records, (light.nrecords, s.bye)
    return s, (lo, hi)


def main():
    global stop
    path, n, ms = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if len(sys.argv) > 5:
        faulthandler.dump_traceback_later(int(sys.argv[5]))
    options = {"flags": wire.OPT_LINES if "lines" in sys.argv else 0, "depth": 4, "ppm": 1000}
    threads = [threading.Thread(target=load, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    records = residue = 0
    forbidden = []
    try:
        for i in range(n):
            s, where = cycle(path, ms, options)
            records += s.bye.records
            residue += s.bye.residue != 0
            if where[0]:
                forbidden.append(where)
            if len(forbidden) > 20:
                host.libc.munmap(forbidden[0][0], forbidden[0][1] - forbidden[0][0])
                forbidden.pop(0)
        time.sleep(0.3)
    finally:
        stop = True
    for t in threads:
        t.join()
    host.say(cycles=n, records=records, residue=residue, work=sum(counts), thunks=len(
        [line for line in open("/proc/self/maps") if "mempulse-thunk" in line]))


if __name__ == "__main__":
    main()
