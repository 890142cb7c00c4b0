"""Cost of the hooks, in the interpreter that runs this.

    bench.py AGENT_SO [lines|root]

Prints the ratio of fib(23) below the traced depth hooked to plain, and what a
traced call costs more. The best of several runs: believe it on an idle machine."""
import ctypes
import os
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import host  # noqa: E402
import scenarios  # noqa: E402
import wire  # noqa: E402


def empty():
    pass


def calls():
    n = 20000
    t = time.perf_counter()
    for _ in range(n):
        empty()
    return (time.perf_counter() - t) / n


def below():
    return below1()


def below1():
    return below2()


def below2():
    return below3()


def below3():
    t = time.perf_counter()
    scenarios.fib(23)
    return time.perf_counter() - t


def best(f):
    result = f()
    for _ in range(8):
        result = min(result, f())
    return result


def main():
    mode = sys.argv[2] if len(sys.argv) > 2 else ""
    plain, plain_call = best(below), best(calls)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    if os.fork() == 0:
        theirs.close()
        while ours.recv(1 << 18):
            pass
        os._exit(0)
    agent = host.Agent(sys.argv[1], theirs.detach())
    ours.sendall(wire.go(depth=4, flags=wire.OPT_LINES if mode == "lines" else 0, root=["none"] if mode == "root" else []))
    agent.start()
    assert agent.wait_hooked()
    hooked, hooked_call = best(below), best(calls)
    ours.sendall(wire.frame(wire.DETACH))
    host.libc.pthread_join(agent.thread, ctypes.byref(host.u64()))
    after = best(below)
    print("%-8s %-5s fib below the depth x%.2f, after x%.2f; a traced call +%.2f us" % (
        sys.version.split()[0], mode, hooked / plain, after / plain, (hooked_call - plain_call) * 1e6))


if __name__ == "__main__":
    main()
