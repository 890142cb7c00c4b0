"""States whose target means harm: to the terminal that shows its names, to the launcher
that reads its files and its agent's words, to whoever asks what is injected. See work.py
for the conversation; the driver is ../hostile.py."""
import ctypes
import fcntl
import mmap
import os
import random
import select
import signal
import socket
import struct
import threading
import time
import types

import states_contract
import work

PR_SET_NAME, SYS_MEMFD_CREATE, MAP_NORESERVE = 15, 319, 0x4000
FIRST_OURS = 512  # descriptors of the session lie above
PATIENCE = 20     # seconds after which an impostor gives up whatever it does
STEM = "/tmp/hostile/"

# What must not reach a terminal or break a line, and what merely looks as if.
NAMES = (
    "\x1b[2J\x1b]0;owned\x07", "\x1b[31mred", "\x9b31m", "a\rb", "a\nb", '"}\n{"type":"end"}', "\x00cut", "\x7f\x08\x08",
    "\u202eeman\u202c", "\u2066x\u2069", "\u2028\u2029", "\u200b\ufeff", "\udcff\udc80", "\ud83d", "\U000e0041",
    "\\u001b[0m", "%s%n%d", "x" * 5000, "\u0439" * 300, "\U0001f40d" * 200, "", " (deleted)", "../../etc/passwd",
)


# --- names ------------------------------------------------------------------------------

SOURCE = "def f(leak):\n    leak(1)\n"


def renamed(code, name, line):
    """The same code under another name, in another file."""
    if not hasattr(code, "replace"):  # before 3.8
        return types.CodeType(code.co_argcount, code.co_kwonlyargcount, code.co_nlocals, code.co_stacksize, code.co_flags,
                              code.co_code, code.co_consts, code.co_names, code.co_varnames, STEM + name, name, line,
                              code.co_lnotab, code.co_freevars, code.co_cellvars)
    fields = {"co_name": name, "co_filename": STEM + name, "co_firstlineno": line}
    if hasattr(code, "co_qualname"):
        fields["co_qualname"] = name
    return code.replace(**fields)


def function_of(name, line):
    space = {}
    exec(SOURCE, space)
    return types.FunctionType(renamed(space["f"].__code__, name, line), {"__name__": name})


class Names(states_contract.Quiet):
    """`names`: calls a function of each name, on a thread of that name."""

    def setup(self, control):
        self.functions = [function_of(name, 1000 + i) for i, name in enumerate(NAMES)]

    def command(self, words, control):
        if words[0] != "names":
            return False
        for name, function in zip(NAMES, self.functions):
            thread = threading.Thread(target=function, args=(work.leak_pages,), name=name)
            thread.start()
            thread.join()
        for function in self.functions:
            function(work.leak_pages)
        control.tell(count=len(NAMES))
        return True


class Comm(states_contract.Scanning):
    """A kernel name that is a terminal's order and a stat line's end, and no safe point."""

    def setup(self, control):
        states_contract.Scanning.setup(self, control)
        work.libc.prctl(PR_SET_NAME, b"\x1b[2J) R 1\n\x9b\xff", 0, 0, 0)


# --- files --------------------------------------------------------------------------------

class Mapped(states_contract.Quiet):
    """`map FOLDER`: every file in it, as code."""

    def setup(self, control):
        self.kept = []

    def command(self, words, control):
        if words[0] != "map":
            return False
        folder = os.fsencode(words[1])
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                size = min(os.fstat(file.fileno()).st_size, 16 << 20)
                self.kept.append(mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC))
        control.tell(mapped=len(self.kept))
        return True


# --- the agent's words -------------------------------------------------------------------------

def sockets():
    """Of the session: (number, its file)."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        if int(name) >= FIRST_OURS and link.startswith("socket:"):
            found.append(int(name))
    return sorted(found)


def frame(kind, body, count=1):
    return struct.pack("<IHH", 8 + len(body), kind, count) + body


HELLO, CODE, THREAD, NOTE = 1, 5, 6, 11
NOTED = b"\x1b[2J\r\n\xff\x9b"


def chunk_of(kind, number):
    """What the impostor says, the number'th time. Floods are of small frames, which cost the
    launcher more than the writer: it never sees the end of them."""
    if kind == "garbage":
        rng = random.Random(number)
        return bytes(rng.getrandbits(8) for _ in range(4096))
    if kind == "long":
        return struct.pack("<IHH", 0xffffffff, 7, 0xffff)
    if kind == "notes":
        return frame(NOTE, struct.pack("<IHH", 4, 8, 0) + NOTED) * 20000
    return b"".join(  # each function that there can be, with the longest names; threads without end
        frame(CODE, struct.pack("<IIIHHHH", 1 + (number * 64 + i) % 32768, 1, 0, 255, 1023, 255, 0) + b"n" * 255 + b"f" * 1023 + b"m" * 255)
        + frame(THREAD, struct.pack("<IiHHI", number * 64 + i, 1, 63, 0, 0) + b"t" * 63) for i in range(64))


def chunks_of(kind):
    number, same = 0, chunk_of(kind, 0) if kind == "notes" else None
    if kind == "note":  # one, and then nothing
        yield frame(NOTE, struct.pack("<IHH", 4, 8, 0) + NOTED)
        while True:
            time.sleep(0.02)
            yield b""
    while True:
        number += 1
        yield same or chunk_of(kind, number)


def deepen(fd):
    """So much room in the socket that its reader finds no end for seconds (SO_SNDBUFFORCE: root)."""
    size = ctypes.c_int(32 << 20)
    work.libc.setsockopt(fd, socket.SOL_SOCKET, 32, ctypes.byref(size), 4)


class Impostor(states_contract.Quiet):
    """`prepare KIND`, before the session; `seize`: takes a copy of the agent's end, closes
    the agent's, and talks in its place. `ambush ABI [KIND]`: the same before the agent is there.
    `served`: how much it said, and whether it heard the launcher take its leave.

    All of it is in frames that were there before the hook: a thunk would have to stay for
    those that came later."""

    def setup(self, control):
        self.served, self.heard, self.go = 0, False, threading.Event()
        self.thread = None

    def command(self, words, control):
        if words[0] == "prepare":
            self.begin(lambda: self.talk(words[1], None))
            control.tell(waits=True)
        elif words[0] == "seize":
            self.go.set()
            control.tell(seizes=True)
        elif words[0] == "ambush":
            self.begin(lambda: self.talk(words[2] if len(words) > 2 else "notes", int(words[1])))
            control.tell(waits=True)
        elif words[0] == "served":
            self.thread.join(PATIENCE)
            control.tell(served=self.served, heard=self.heard)
        else:
            return False
        return True

    def begin(self, what):
        self.served, self.heard, self.go = 0, False, threading.Event()
        self.thread = threading.Thread(target=what)
        self.thread.daemon = True
        self.thread.start()

    def talk(self, kind, abi):
        """Until the launcher has left, or says something, or patience ends."""
        end = time.time() + PATIENCE
        chunks, chunk = chunks_of(kind), b""
        if abi is None:
            while not self.go.is_set() and time.time() < end:
                select.select([], [], [], 0.01)
            fd = self.seize()
        else:
            fd = self.ambush(abi, end)
        quiet = select.poll()
        if fd >= 0:
            quiet.register(fd, select.POLLHUP)
            deepen(fd)
        while fd >= 0 and time.time() < end:
            if kind == "silent":
                self.served = 1
                if any(event & select.POLLHUP for _, event in quiet.poll(10)):
                    break
                continue
            try:
                readable, writable, _ = select.select([fd], [fd], [], 0.1)
                if readable:
                    self.heard = bool(os.read(fd, 65536))
                    break
                if writable:
                    chunk = chunk or next(chunks)
                    sent = os.write(fd, chunk)
                    self.served += sent
                    chunk = chunk[sent:]
            except OSError:
                break
        if fd >= 0:
            os.close(fd)

    def seize(self):
        number = sockets()[-1]
        fd = os.dup(number)
        os.close(number)
        os.set_blocking(fd, False)
        return fd

    def ambush(self, abi, end):
        """From the two ends, before the loader has moved on: if it is we who are told to go."""
        found, seen = [], 0
        while len(found) < 2 and seen < 3 and time.time() < end:
            found = sockets()
            seen += len(found) == 1  # the other one is not there yet, or not any more
        if len(found) < 2:
            return -1
        mine, go = [], b""
        try:
            mine += [os.dup(found[1])]
            mine += [os.dup(found[0])]
            os.close(found[1])
            go = select.select(mine[:1], [], [], 2)[0] and os.read(mine[0], 1)
        except OSError:  # the loader was quicker: these are no descriptors any more
            pass
        for extra in mine[1:]:
            os.close(extra)
        if not mine:
            return -1
        fd = mine[0]
        if go != b"G":
            os.close(fd)
            return -1
        os.write(fd, frame(HELLO, struct.pack("<IiiI", abi, os.getpid(), os.getpid(), 0)))
        if select.select([fd], [], [], 2)[0]:
            os.read(fd, 65536)  # GO
        return fd


# --- what looks like a session ----------------------------------------------------------------

CONTROL_MAGIC = struct.pack("<Q", 0x4c52544e4f43504d)
AGENT = b"mempulse-agent"
BOOT_OFF, REGION_SIZE = 4 * 4096, 182 * 4096
REGION_PLACE, REGION_MASK = 0x06d70000, 0x0fffffff  # include/boot.h
HELD = 7  # enum mp_held_slot


def mappings():
    with open("/proc/self/maps", errors="replace") as file:
        for line in file:
            span, perms = line.split()[:2]
            low, high = (int(part, 16) for part in span.split("-"))
            yield low, high, perms, line


def memory(low, size):
    return ctypes.string_at(low, size)


def occupy(count):
    """Maps a page at each of the places below libc where a launcher would have its region first.
    Whether nothing else was there."""
    libc = min(low for low, _, perms, line in mappings() if "x" in perms and "libc" in line)
    used, places, nothing = [(low, high) for low, high, _, _ in mappings()], [], ctypes.c_long(0)
    at = (libc & ~REGION_MASK) + REGION_PLACE + (REGION_MASK + 1)
    while len(places) < count:
        at -= REGION_MASK + 1
        if at + REGION_SIZE <= libc and not any(high + 4096 > at and low < at + REGION_SIZE + (1 << 20) for low, high in used):
            places.append(at)
    for at in places:  # read; private, anonymous, MAP_FIXED_NOREPLACE
        work.libc.mmap(ctypes.c_void_p(at), ctypes.c_size_t(4096), 1, 0x100022, -1, nothing)
    return {(at, "r--p") for at in places} <= {(low, perms) for low, _, perms, _ in mappings()}


def uncounted():
    """A thread of the kernel's in this process, which libc knows nothing of: io_uring_setup, IORING_SETUP_SQPOLL.
    Its descriptor, or -1."""
    return work.libc.syscall(425, 8, ctypes.byref((ctypes.c_uint32 * 30)(0, 0, 2)))


def block_all():
    """In this thread, as ours do; 32 and 33 are libc's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {32, 33})


class Forger(states_contract.Quiet):
    """`learn`: keeps the marks of the session that there is. `forge KIND`: puts up its like,
    full of lies. `unforge`: takes it down. `stray`, `unstray`: a region as
    a launcher leaves it that dies right after its mmap. `toil SECONDS`: computes.
    `beget`: threads that block every signal and don't live long, until `unforge`.
    `uncounted`: a thread that libc knows nothing of."""

    def setup(self, control):
        self.kept = []
        self.marks = None
        self.thunk, self.stop = None, False

    def regrow(self):
        """Regions as a launcher leaves them that dies right after its mmap: no pointer keeps those."""
        calls = [(ctypes.c_void_p(0x500006d70000 + (i << 28)), ctypes.c_size_t(REGION_SIZE)) for i in range(8)]
        nothing, quick = ctypes.c_long(0), ctypes.PyDLL(None).mmap  # which keeps the GIL: back within microseconds
        while not self.stop:
            for place, size in calls:  # read and exec; private, anonymous, MAP_FIXED_NOREPLACE: refused while it is there
                quick(place, size, 5, 0x100022, -1, nothing)

    def beget(self, count):
        """Threads that block every signal and compute, one of which is always there, none for long."""
        def toil():
            block_all()
            for half in range(2):
                end = time.monotonic() + 0.02
                while time.monotonic() < end:
                    pass
                if not half and not self.stop:
                    self.beget(1)
        for _ in range(count):
            thread = threading.Thread(target=toil)
            thread.daemon = True
            thread.start()

    def command(self, words, control):
        if words[0] == "learn":
            control.tell(learnt=self.learn())
        elif words[0] == "forge":
            getattr(self, words[1])()
            control.tell(forged=True)
        elif words[0] == "regrow":
            self.thunk = mmap.mmap(-1, 2 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.thunk[4096:4096 + 9] = b"MPTHUNK\1\xff"  # it says that it is called
            work.libc.mprotect(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self.thunk))), ctypes.c_size_t(4096), 5)
            thread = threading.Thread(target=self.regrow)
            thread.daemon = True
            thread.start()
            control.tell(grows=True)
        elif words[0] in ("stray", "unstray"):
            place, size, nothing = ctypes.c_void_p(0x500006d70000), ctypes.c_size_t(REGION_SIZE), ctypes.c_long(0)
            if words[0] == "stray":  # read and exec; private, anonymous, MAP_FIXED_NOREPLACE
                work.libc.mmap(place, size, 5, 0x100022, -1, nothing)
            else:
                work.libc.munmap(place, size)
            control.tell(stray=words[0] == "stray")
        elif words[0] == "vast":  # more than a sweep reads
            self.kept.append(mmap.mmap(-1, 5 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE))
            control.tell(vast=True)
        elif words[0] == "occupy":
            control.tell(occupied=occupy(int(words[1])))
        elif words[0] == "beget":
            self.beget(2)
            control.tell(begets=True)
        elif words[0] == "toil_blocked":  # on a thread that blocks every signal, as ours do
            def toil():
                block_all()
                end = time.monotonic() + float(words[1])
                control.tell(toils=True)
                while time.monotonic() < end:
                    pass
            thread = threading.Thread(target=toil)
            thread.daemon = True
            thread.start()
        elif words[0] == "uncounted":
            control.tell(uncounted=uncounted() >= 0)
        elif words[0] == "compute":
            control.tell(computes=True)
            end = time.monotonic() + float(words[1])
            while time.monotonic() < end:
                pass
        elif words[0] == "toil":  # within a call that nobody knows to be one in which a thread may be borrowed
            old = signal.signal(signal.SIGALRM, lambda number, frame: None)
            control.tell(toils=True)
            signal.setitimer(signal.ITIMER_REAL, float(words[1]))
            ends, nothing = os.pipe() + os.pipe(), ctypes.c_void_p()
            work.libc.splice(ends[0], nothing, ends[3], nothing, ctypes.c_size_t(1), 0)
            for end in ends:
                os.close(end)
            signal.signal(signal.SIGALRM, old)
        elif words[0] == "unforge":
            self.stop = True
            if self.thunk:
                self.thunk[4096:4096 + 9] = bytes(9)
            for block in self.kept:
                try:
                    block.close()
                except (BufferError, ValueError):
                    pass
            self.kept = []
            control.tell(forged=False)
        else:
            return False
        return True

    def learn(self):
        agent = 0  # where its last mapping ends: .bss lies behind it
        for low, high, perms, line in mappings():
            named = "memfd:mempulse-agent" in line
            data = memory(low, high - low) if "w" in perms and (named or low == agent) else b""
            agent = high if named else agent
            at = next((i for i in range(0, len(data), 64) if data[i:i + 8] == CONTROL_MAGIC), -1)
            if at >= 0:
                size, region = struct.unpack_from("<I", data, at + 12)[0], struct.unpack_from("<Q", data, at + 16)[0]
                self.marks = memory(low + at, size), memory(region, BOOT_OFF + 2 * 4096)
        return self.marks is not None

    def put_control(self, control):
        fd = work.libc.syscall(SYS_MEMFD_CREATE, AGENT, 1)
        os.ftruncate(fd, 64 << 10)
        block = mmap.mmap(fd, 64 << 10)
        os.close(fd)
        block[64:64 + len(control)] = control
        self.kept.append(block)

    def control(self, alive, rest=None):
        """With pid, thread and state as they should be; `rest` from the options on."""
        block = bytearray(self.marks[0])
        if rest is not None:
            block[80:] = (rest * (len(block) // len(rest) + 1))[:len(block) - 80]
        struct.pack_into("<iiiII", block, 56, os.getpid(), os.getpid() if alive else 1 << 22, -1, 0xffffffff, 2)
        struct.pack_into("<I", block, 76, 0)
        return bytes(block)

    def alive(self):
        self.put_control(self.control(True))

    def wild(self):
        """Counts, lengths, names: anything."""
        rng = random.Random(1)
        for pattern in (b"\xff", b"\x1b[2J\r\n", bytes(rng.getrandbits(8) for _ in range(4096))):
            self.put_control(self.control(True, pattern))

    def states(self):
        """Of none of the states that there are."""
        block = bytearray(self.control(True))
        struct.pack_into("<I", block, 72, 0xffffffff)
        self.put_control(bytes(block))

    def version(self):
        block = bytearray(self.control(True))
        struct.pack_into("<II", block, 8, 0xffffffff, 0xffffffff)
        self.put_control(bytes(block))

    def put_region(self, fix):
        block = mmap.mmap(-1, REGION_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                          prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        data = bytearray(self.marks[1])
        size = struct.unpack_from("<I", data, BOOT_OFF + 12)[0]
        held = BOOT_OFF + size - HELD * 24  # the last member of struct mp_boot; before it seven callbacks, the armed page
        for i in range(HELD):  # what is the target's own
            st = os.fstat(i % 3)
            struct.pack_into("<iIQQ", data, held + i * 24, i % 3, 0, st.st_dev, st.st_ino)
        struct.pack_into("<Q", data, held - 64, 0xfffffffffffff000)
        data[BOOT_OFF + 304:BOOT_OFF + 320] = b"\xff" * 16              # descriptors
        data[BOOT_OFF + 40:BOOT_OFF + 296] = b"\x1b[2J\n\xff%n" * 32   # error_text, which does not end
        start = ctypes.c_char.from_buffer(block)
        struct.pack_into("<Q", data, BOOT_OFF + 16, ctypes.addressof(start))
        fix(data)
        block[:len(data)] = bytes(data)
        del start
        self.kept.append(block)

    def region(self):
        """Its threads live, its descriptors and its armed page are nonsense."""
        self.put_region(lambda data: struct.pack_into("<ii", data, BOOT_OFF + 296, os.getpid(), os.getpid()))

    def orphan(self):
        """Its threads have gone: to be swept away."""
        self.put_region(lambda data: struct.pack_into("<ii", data, BOOT_OFF + 296, 0, 0))

    def many(self):
        for _ in range(100):
            self.put_control(self.control(True)[8:])
        for _ in range(20):
            self.region()


class Locker(states_contract.Quiet):
    """Holds the lock by which launchers take turns."""

    def setup(self, control):
        try:
            self.file = open("/proc/self/mem", "rb", 0)
            fcntl.flock(self.file, fcntl.LOCK_EX)
        except OSError:
            return "no lock on one's own memory"


class Stalled(states_contract.Quiet):
    """Pages of its memory never come to who reads them from outside: at its lowest address
    (`low`), and in what bears the agent's name (`agent`)."""
    PAGE_AT, SYS_USERFAULTFD, API, REGISTER, UNREGISTER = 0x20000, 323, 0xc018aa3f, 0xc020aa00, 0x8010aa01

    def setup(self, control):
        self.kept = []
        self.fd = work.libc.syscall(ctypes.c_long(self.SYS_USERFAULTFD), 0o2000000 | 0o4000)
        try:
            fcntl.ioctl(self.fd, self.API, bytearray(struct.pack("<QQQ", 0xaa, 0, 0)))
        except (OSError, ValueError):
            return "no userfaultfd here"

    def command(self, words, control):
        if words[0] == "low":
            work.libc.mmap.restype = ctypes.c_void_p
            start = work.libc.mmap(ctypes.c_void_p(self.PAGE_AT), ctypes.c_size_t(4096), 3, 0x100022, -1, ctypes.c_long(0))
        elif words[0] == "agent":
            file = work.libc.syscall(ctypes.c_long(SYS_MEMFD_CREATE), AGENT, 1)
            os.ftruncate(file, 4096)
            block = mmap.mmap(file, 4096)
            os.close(file)
            start = ctypes.addressof(ctypes.c_char.from_buffer(block))
            self.kept.append(block)
        else:
            return False
        fcntl.ioctl(self.fd, self.REGISTER, bytearray(struct.pack("<QQQQ", start, 4096, 1, 0)))
        control.tell(start=start)
        return True


STATES = {"names": Names, "comm": Comm, "mapped": Mapped, "impostor": Impostor, "forger": Forger, "locker": Locker,
          "stalled": Stalled}
