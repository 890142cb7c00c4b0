"""Runs inside the interpreter under test: one Python allocation that the agent makes while
it comes and goes fails, each in turn. It is hooked then, or says why not; either way it
is gone afterwards, and the program knows of nothing.

    nomemory.py AGENT_SO HELPER_SO [lines]"""
import ctypes
import os
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import host  # noqa: E402
import scenarios as sc  # noqa: E402
import wire  # noqa: E402

PATIENCE = 20   # seconds: an agent without a thread state asks again for five
SESSION = 0.01  # from HOOKED on


class Refusing:
    def __init__(self, path):
        self.lib = ctypes.PyDLL(path)  # which keeps the GIL
        self.get, self.set = (ctypes.c_void_p(host.address(name)) for name in ("PyMem_GetAllocator", "PyMem_SetAllocator"))

    def arm(self, n):
        self.lib.nomemory_arm(self.get, self.set, n)

    def disarm(self):
        return self.lib.nomemory_disarm(self.set)


def slots():
    """What an agent could leave in the interpreter, as Python sees it."""
    tools = [sys.monitoring.get_tool(n) for n in range(6)] if hasattr(sys, "monitoring") else []
    return tools, sys.gettrace(), sys.getprofile(), sys.exc_info()


def cycle(path, options, refusing, n):
    """Whether it was hooked, and how many allocations it made."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    agent, session = host.Agent(path, theirs.detach()), wire.Session()
    ours.sendall(wire.go(**options))
    ours.settimeout(0.005)
    end, leave = time.time() + PATIENCE, None
    refusing.arm(n)
    agent.start()
    while not session.bye and not session.failed:
        try:
            data = ours.recv(1 << 18)
            assert data, "it said nothing"
            session.feed(data)
        except socket.timeout:
            pass
        if session.hooked and leave is None:
            leave = time.time() + SESSION
        if leave and time.time() >= leave:
            leave = end
            ours.sendall(wire.frame(wire.DETACH))
        assert time.time() < end, "stuck in state %d" % agent.state()
        assert sc.fib(7) == 13
    host.libc.pthread_join(agent.thread, None)
    made = refusing.disarm()
    residue = session.bye.residue if session.bye else 0
    agent.close()
    ours.close()
    assert not residue and not host.maps(), (residue, host.maps())
    return bool(session.hooked), made


def main():
    path, refusing = sys.argv[1], Refusing(sys.argv[2])
    options = {"flags": wire.OPT_LINES if "lines" in sys.argv else 0, "depth": 4}
    before, hooked, n, made = slots(), [], 0, 1
    fds = len(os.listdir("/proc/self/fd"))
    while made >= n:
        n += 1
        was_hooked, made = cycle(path, options, refusing, n)
        hooked.append(was_hooked)
        assert slots() == before, (n, slots())
        assert len(os.listdir("/proc/self/fd")) == fds, (n, "descriptors")
        assert sum(sc.fib(12) for _ in range(5)) == 5 * 144
    host.say(refused=n - 1, hooked=sum(hooked), last=hooked[-1])


if __name__ == "__main__":
    main()
