"""A process that forks when told to, and whose children do as well: family.py FD...
Process number k takes commands, a line each, from the fd 2k and answers on the fd
2k + 1 of those given. All of them work between commands; none writes to stdio.

    fork HOW   ->  the child's pid; HOW: plain, thread (by another thread), held (the
                   child stays inside the call that forked until `return`)
    count      ->  calls made so far, after a garbage collection
    hold N     ->  N threads sit in a call from now on
    open NAME  ->  the lowest free descriptor on the file of that name, once that is open here
    close FD   ->  FD
    tools      ->  names of sys.monitoring's tools
    exec       ->  becomes another program, which sleeps
    stop       ->  ends with status 0, when its child has
Runs on CPython 3.6 to 3.13."""
import gc
import os
import select
import sys
import threading
import time

FDS = [int(arg) for arg in sys.argv[1:]]
number = 0  # of this process
calls = 0
child = 0


def leaf(i):
    global calls
    calls += 1
    return [i] * 10


def take():
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(FDS[2 * number], 1)
        if not byte:
            os._exit(0)
        line += byte
    return line.decode().split()


def tell(text):
    os.write(FDS[2 * number + 1], ("%s\n" % text).encode())


def work(until=None):
    """Until the command `until`, or for ever."""
    i = 0
    while True:
        leaf(i)
        i += 1
        if select.select([FDS[2 * number]], [], [], 0.002)[0]:
            words = take()
            if words[0] == until:
                tell(until)
                return
            command(words)


def fork(how):
    global number, calls, child
    pid = os.fork()
    if pid:
        child = pid
        return pid
    number, calls, child = number + 1, 0, 0
    if how == "held":
        work("return")
    return 0


def fork_in_thread():
    """The child goes on in the thread that forked; it never returns from here."""
    def run():
        pid = fork("thread")
        if pid == 0:
            work()
        found.append(pid)
    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def sit(event):
    event.wait()


def hold(count):
    for _ in range(count):
        thread = threading.Thread(target=lambda: [leaf(0), sit(threading.Event())])
        thread.daemon = True
        thread.start()


def open_again(name):
    """As ld.so opens what it loads."""
    while True:
        for fd in os.listdir("/proc/self/fd"):
            try:
                if name in os.readlink("/proc/self/fd/" + fd):
                    return os.open("/proc/self/fd/" + fd, os.O_RDONLY)
            except OSError:
                pass  # listdir's own
        time.sleep(0.002)


def command(words):
    if words[0] == "fork":
        pid = fork_in_thread() if words[1] == "thread" else fork(words[1])
        if pid:
            tell(pid)
    elif words[0] == "count":
        gc.collect()
        tell("%d %d" % (calls, len(gc.get_objects()) > 0))
    elif words[0] == "hold":
        hold(int(words[1]))
        tell("held")
    elif words[0] == "open":
        tell(open_again(words[1]))
    elif words[0] == "close":
        os.close(int(words[1]))
        tell(words[1])
    elif words[0] == "tools":
        tell(",".join(str(sys.monitoring.get_tool(i)) for i in range(6)) if hasattr(sys, "monitoring") else "")
    elif words[0] == "exec":
        tell("exec")
        os.execv("/bin/sleep", ["sleep", "60"])
    elif words[0] == "stop":
        status = os.waitpid(child, 0)[1] if child else 0
        tell("stopped %d" % status)
        os._exit(0)


tell("ready")
work()
