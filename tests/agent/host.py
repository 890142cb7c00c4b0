"""Runs inside the interpreter under test (3.6 and later): loads the agent into this
process, as the loader would, on a pthread of its own, and runs a scenario.

    host.py AGENT_SO SOCKET_FD SCENARIO

Speaks with run.py over stdin and stdout, one JSON object a line."""
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
libc = ctypes.CDLL(None, use_errno=True)
api = ctypes.pythonapi
STARVED = 8652  # offset in struct mp_control
u32, i32, u64 = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64


def symbols():
    text = open(os.path.join(HERE, "../../include/pysyms.h")).read()
    return re.findall(r"^\s*X\((\w+)\)", text, re.M)


def abi():
    text = open(os.path.join(HERE, "../../include/boot.h")).read()
    return int(re.search(r"MP_ABI (\d+)u", text).group(1))


NAMES = symbols()
# Symbols of the executable that dlsym does not see (a static, PIE or not, python).
HIDDEN = {}


class Boot(ctypes.Structure):
    _fields_ = [
        ("magic", u64), ("abi", u32), ("size", u32), ("region_base", u64), ("region_len", u64),
        ("phase", u32), ("error", i32), ("error_text", ctypes.c_char * 256), ("raw_tid", i32), ("worker_tid", i32),
        ("launcher_fd", i32), ("agent_fd", i32), ("memfd", i32), ("agent_out", i32),
        ("fns", u64 * 16), ("dlopen_flags", u32), ("tid_offset", u32), ("raw_tcb", u64), ("exit_gadget", u64),
        ("agent_entry_off", u64), ("agent_base", u64), ("py_version", u32), ("py_flags", u32),
        ("py_sym", u64 * len(NAMES)), ("switch_interval", u64), ("launcher_pid", i32), ("channel", ctypes.c_uint32),
        ("owner_pid", i32), ("note_threads", u32), ("agent_handle", u64), ("armed", u64), ("callback", u64 * 7),
        ("held", u64 * 3 * 7)]


def address(name):
    try:
        return ctypes.cast(getattr(api, name), ctypes.c_void_p).value or 0
    except AttributeError:
        return 0


def tid_offset():
    """Offset of `tid` in struct pthread, found by its value, in two threads: a small number may stand elsewhere too."""
    found = []

    def look():
        words = (u32 * 1024).from_address(ctypes.c_uint64.from_address(libc_pthread_self()).value)
        tid = libc.syscall(186)  # gettid
        found.append({i * 4 for i in range(64, 576) if words[i] == tid})

    look()
    other = threading.Thread(target=look)
    other.start()
    other.join()
    return min(found[0] & found[1])


def libc_pthread_self():
    libc.pthread_self.restype = ctypes.c_void_p
    return libc.pthread_self()  # the TCB's first word points to itself


def never_freed(size):
    """Zeroes that outlive the interpreter, as the region does: the agent's thread may be the last to run."""
    libc.calloc.restype = ctypes.c_void_p
    return libc.calloc(1, size)


class Agent:
    def __init__(self, path, fd):
        self.lib = ctypes.CDLL(path, mode=os.RTLD_NOW)
        self.boot = b = Boot.from_address(never_freed(ctypes.sizeof(Boot) + 8))  # and a word for a scenario
        b.magic, b.abi, b.size = 0x3130544f4f42504d, abi(), ctypes.sizeof(Boot)
        b.agent_fd, b.launcher_fd, b.memfd = fd, -1, -1
        b.fns[15] = ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value
        b.tid_offset = tid_offset()
        b.py_version = sys.hexversion & 0xffffff00
        for i, name in enumerate(NAMES):
            b.py_sym[i] = address(name)

    def start(self):
        self.thread = u64()
        main = ctypes.cast(self.lib.mp_agent_main, ctypes.c_void_p)
        old = signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {32, 33})
        assert libc.pthread_create(ctypes.byref(self.thread), None, main, ctypes.byref(self.boot)) == 0
        signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def control(self, offset):
        return u32.from_address(ctypes.addressof(ctypes.c_char.in_dll(self.lib, "mp_control_block")) + offset)

    def interval_was(self):
        return u64.from_address(ctypes.addressof(self.control(88)))

    def state(self):
        return self.control(72).value

    def ask_to_leave(self):
        self.control(76).value = 1

    def starved(self):
        return self.control(STARVED).value

    def wait_hooked(self, seconds=10):
        end = time.time() + seconds
        while self.state() < 2 and time.time() < end:
            time.sleep(0.002)
        return self.state() == 2

    def close(self):
        if not self.lib:
            return
        handle = self.lib._handle
        self.lib = None
        libc.dlclose.argtypes = [ctypes.c_void_p]
        libc.dlclose(handle)


def maps():
    return [line for line in open("/proc/self/maps") if "mempulse" in line or "agent.so" in line]


def say(**kw):
    sys.stdout.write(json.dumps(kw) + "\n")
    sys.stdout.flush()


def main():
    path, fd, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    sys.path.insert(0, HERE)
    import scenarios
    scenario = getattr(scenarios, name)
    fds = len(os.listdir("/proc/self/fd"))
    agent = Agent(path, fd)
    before = getattr(scenarios, name + "_before", lambda a: None)(agent)
    agent.start()
    hooked = agent.wait_hooked()
    result = scenario(agent, before) if hooked else None
    if name in ("exits", "starved_exits"):
        sys.exit(3)
    say(done=True, hooked=hooked, result=result)
    sys.stdin.readline()
    asked = time.time()
    ret = u64()
    # No Python call around it: that one would be in flight through the thunk.
    libc.pthread_join(agent.thread, ctypes.byref(ret))
    ret = ret.value & 0xffffffff
    state = agent.state()
    left = getattr(scenarios, name + "_after", lambda a, b: None)(agent, before)
    agent.close()
    work = sum(scenarios.fib(12) for _ in range(20))
    say(ret=ret, leave_ms=int((time.time() - asked) * 1000), state=state, after=left, maps=maps(), fds=len(os.listdir("/proc/self/fd")) - fds + 1, work=work)


if __name__ == "__main__":
    main()
