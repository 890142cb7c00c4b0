"""States of what a process may: limits, filters, identity."""
import ctypes
import gc
import json
import os
import resource
import threading

import work
from work import libc

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
ALLOW, KILL, ERRNO = 0x7fff0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38
NOBODY = 65534

# x86-64's numbers. What systemd's SystemCallFilter=@system-service leaves out, the start of it.
SERVICE = {nr: ERRNO | EPERM for nr in (101, 155, 163, 165, 166, 167, 169, 175, 176, 246, 298, 304, 310, 311, 321, 323)}
STRICT = {41: ERRNO | EPERM, 53: ERRNO | EPERM, 319: ERRNO | EPERM, 435: ERRNO | ENOSYS}  # socket, socketpair, memfd_create, clone3
KILL_MEMFD = {319: KILL}
NO_OPEN = {257: ERRNO | EPERM}
# As systemd makes SystemCallFilter=@system-service (shared/seccomp-util.c): a list of what may be called, death
# for all else. These may not: mincore, then modules, mounts, clocks, debugging, swap, raw I/O, sandboxes, protection
# keys, what is obsolete; and what came after futex_waitv.
NOT_SERVICE = frozenset((27, 101, 103, 134, 136, 139, 153, 154, 155, 156, 159, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172,
                         173, 174, 175, 176, 177, 178, 179, 180, 181, 182, 183, 184, 185, 212, 227, 236, 246, 298, 300, 301, 304, 305,
                         313, 317, 320, 321, 329, 330, 331, 428, 429, 430, 431, 432, 433, 438, 442, 443, 444, 445, 446, 447, 448))
AUDIT_ARCH_X86_64, LAST_SERVICE = 0xc000003e, 449
# By argument: (its number, bits that are all set, what to do then). KILL_CODE: mmap with PROT_EXEC.
# NO_NEW_CODE: systemd's MemoryDenyWriteExecute, that is mmap with PROT_WRITE|PROT_EXEC, mprotect with PROT_EXEC.
KILL_CODE = {9: (2, 4, KILL)}
KILL_HANDLER = {13: (0, 33, KILL)}  # of SIGSETXID, which the first pthread_create of a process sets
NO_NEW_CODE = {9: (2, 6, ERRNO | EPERM), 10: (2, 4, ERRNO | EPERM)}


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("at", ctypes.POINTER(Instruction))]


def install_filter(rows):
    """A seccomp filter: what to do for each number, ALLOW for all others."""
    code = [(0x20, 0, 0, 0)]  # load the number
    for nr, action in sorted(rows.items()):
        if isinstance(action, tuple):
            number, bits, action = action
            code += [(0x15, 0, 5, nr), (0x20, 0, 0, 16 + 8 * number), (0x54, 0, 0, bits), (0x15, 0, 1, bits),
                     (0x06, 0, 0, action), (0x06, 0, 0, ALLOW)]
        else:
            code += [(0x15, 0, 1, nr), (0x06, 0, 0, action)]
    code.append((0x06, 0, 0, ALLOW))
    return install_code(code)


def install_allow_list():
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, AUDIT_ARCH_X86_64), (0x06, 0, 0, KILL), (0x20, 0, 0, 0)]
    for nr in range(LAST_SERVICE + 1):
        if nr not in NOT_SERVICE:
            code += [(0x15, 0, 1, nr), (0x06, 0, 0, ALLOW)]
    code.append((0x06, 0, 0, KILL))
    return install_code(code)


def install_code(code):
    array = (Instruction * len(code))(*[Instruction(*row) for row in code])
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl.argtypes = None
    if libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(Program(len(code), array)), 0, 0):
        return "no seccomp filters here"
    return None


class ModeStrict(work.State):
    """May read, write and exit, and nothing else: works when it is asked to, in memory that it has."""
    MODE_STRICT, EXIT, M_TRIM_THRESHOLD, M_MMAP_MAX = 1, 60, -1, -4
    OBJECTS, ROOM, KEPT = 200000, 8 << 20, 16

    def make_room(self):
        """Half of the objects stay, so that no arena of Python's is ever free, and given back; nor does libc's malloc."""
        libc.mallopt(self.M_MMAP_MAX, 0)
        libc.mallopt(self.M_TRIM_THRESHOLD, -1)
        libc.free.argtypes, libc.malloc.restype = [ctypes.c_void_p], ctypes.c_void_p
        libc.free(libc.malloc(ctypes.c_size_t(self.ROOM)))
        objects = [bytes(k % 500) for k in range(self.OBJECTS)]
        self.kept = objects[::self.KEPT]

    def step(self, i):
        return work.checksum(sum(k * k % 7 for k in range(100 + i % work.PERIOD)))

    def quiet(self):
        """What comes after asks for nothing of the kernel's, not even for the pid; nor for the time, for which
        the processor's own clock is taken away (PR_TSC_SIGSEGV), and which some first uses of a name look at."""
        json.dumps([dict(work.account.as_dict()), True, False, None, [], {}, [1], {"": 1.5}], sort_keys=True)
        self.make_room()
        gc.disable()
        work.pid = os.getpid()
        if libc.prctl(PR_SET_SECCOMP, self.MODE_STRICT, 0, 0, 0):
            os._exit(1)

    def serve(self, control, reference):
        words = ["run"]
        while words[0] != "stop":
            work.account.took(self.step(work.account.steps), reference[work.account.steps % work.PERIOD], 0)
            if words[0] != "run":
                control.tell(paused=True, pong=True, eintr=0)
            words = control.command()
        control.tell(report=work.account.as_dict())
        libc.syscall(ctypes.c_long(self.EXIT), ctypes.c_long(0))


def filter_one_thread():
    """A thread that waits under a filter of its own."""
    told = []

    def run():
        told.append(install_filter(SERVICE))
        ready.set()
        threading.Event().wait()

    ready = threading.Event()
    thread = threading.Thread(target=run)
    thread.daemon = True
    thread.start()
    ready.wait()
    return told[0]


def lowest_free():
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    return fd


def address_space(room):
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))


def no_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def become_nobody():
    if os.geteuid() != 0:
        return "only root can become another user"
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    return None


def states(base):
    """A class for each: `base`, after a deed."""
    deeds = {
        "seccomp_service": lambda: install_filter(SERVICE),
        "seccomp_allow_list": install_allow_list,
        "seccomp_strict": lambda: install_filter(STRICT),
        "seccomp_kill_memfd": lambda: install_filter(KILL_MEMFD),
        "seccomp_no_open": lambda: install_filter(NO_OPEN),
        "seccomp_kill_code": lambda: install_filter(KILL_CODE),
        "seccomp_kill_handler": lambda: install_filter(KILL_HANDLER),
        "seccomp_no_new_code": lambda: install_filter(NO_NEW_CODE),
        "seccomp_one_thread": filter_one_thread,
        "dumpable_0": lambda: libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) or None,
        "setuid_worker": become_nobody,
        "limit_as": lambda: address_space(1 << 20),
        "limit_as_room": lambda: address_space(128 << 20),
        "limit_nofile": no_descriptors,
    }
    classes = {"seccomp_mode_strict": ModeStrict}
    classes.update({name: type(str(name), (base,), {"setup": lambda self, control, deed=deed: deed()}) for name, deed in deeds.items()})
    return classes
