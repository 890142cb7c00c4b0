"""States whose target does something to the session itself: to its descriptors, its
hooks, its interpreter's audit events. See work.py for the conversation."""
import ctypes
import mmap
import os
import socket
import sys
import tempfile
import threading
import time

import work
from work import checksum


class Quiet(work.State):
    """Works a little; its commands do the rest."""

    def step(self, i):
        time.sleep(0.005)
        return checksum(i % work.PERIOD)


class Descriptors(Quiet):
    """`stand`: opens a file, in a call that ends with `return`. `clash close`: closes all descriptors that are not its own. `clash replace`: puts
    files of its own in their places. `clash socket`: sockets. `look`: what became of them."""

    def setup(self, control):
        self.own = {int(name) for name in os.listdir("/proc/self/fd")}
        self.taken = []

    def command(self, words, control):
        if words[0] == "clash":
            control.tell(clashed=self.clash(words[1]))
        elif words[0] == "look":
            control.tell(**self.look())
        elif words[0] == "stand":
            with tempfile.TemporaryFile():
                control.tell(standing=True)
                control.command()
            control.tell(returned=True)
        else:
            return False
        return True

    def clash(self, how):
        ours = sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) not in self.own)
        ours = [fd for fd in ours if fd >= 512]  # that of listdir itself lies below
        if how == "close":
            os.closerange(512, 4096)
            return len(ours)
        if how == "socket":
            self.peer, mine = socket.socketpair()
            self.peer.setblocking(False)
            fd = mine.detach()
        else:
            self.file = tempfile.TemporaryFile()
            fd = os.dup(self.file.fileno())
        for n in ours:
            os.dup2(fd, n)
        os.close(fd)
        self.taken = ours
        return len(ours)

    def look(self):
        """Bytes that came through ours, which of them are open; and closes what it opened."""
        alive = 0
        for fd in self.taken:
            try:
                os.close(fd)
                alive += 1
            except OSError:
                pass
        got = 0
        if hasattr(self, "peer"):
            try:
                got = len(self.peer.recv(1 << 20))
            except BlockingIOError:
                pass
            self.peer.close()
        if hasattr(self, "file"):
            got = os.fstat(self.file.fileno()).st_size
            self.file.close()
        return {"got": got, "alive": alive, "taken": len(self.taken)}


class Scanning(work.State):
    """Nearly always deep in one call of libc's: no safe point is found in it."""

    def setup(self, control):
        self.room = mmap.mmap(-1, 1 << 30)  # never written to: it takes no memory
        self.size = len(self.room)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.room))
        self.find = ctypes.CDLL(None).memchr
        self.find.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self.find.restype = ctypes.c_void_p

    def step(self, i):
        return checksum((i % work.PERIOD, self.find(self.start, 1, self.size)))


class Jailed(Quiet):
    """In a root of its own without /proc, where it finds what it needs to import no more."""

    def setup(self, control):
        if os.geteuid() != 0:
            return "only root can change its root"
        self.root = tempfile.mkdtemp(prefix="mp-jail-")
        os.chroot(self.root)
        os.chdir("/")

    def command(self, words, control):
        if words[0] != "mkdir":
            return False
        os.mkdir("/proc")
        control.tell(made=True)
        return True


class Limited(Quiet):
    """`limit NAME ROOM`: leaves room for so much more; `unlimit NAME`. `become UID`; `regain`: tries to be root again."""

    def setup(self, control):
        import resource
        self.limits = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC, "as": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA}
        self.resource = resource
        self.was = {name: resource.getrlimit(number) for name, number in self.limits.items()}

    def with_room(self, name, room):
        """The limit that leaves just so much."""
        if name == "as":
            with open("/proc/self/statm") as file:
                return int(file.read().split()[0]) * work.PAGE + room
        if name == "data":
            with open("/proc/self/status") as file:
                return int(file.read().split("VmData:")[1].split()[0]) * 1024 + room
        if name == "nproc":
            return 1 + room  # as another user than root, of whom there is only this process
        folder = os.open("/proc/self/fd", os.O_RDONLY)
        used = {int(fd) for fd in os.listdir(folder)}
        os.close(folder)
        used = {fd for fd in used if os.path.exists("/proc/self/fd/%d" % fd)}  # not what listed them
        return next(n for n in range(4096) if n - len([fd for fd in used if fd < n]) == room)

    def command(self, words, control):
        if words[0] == "limit":
            limit = self.with_room(words[1], int(words[2]))
            self.resource.setrlimit(self.limits[words[1]], (limit, self.was[words[1]][1]))
        elif words[0] == "unlimit":
            self.resource.setrlimit(self.limits[words[1]], self.was[words[1]])
        elif words[0] == "become":
            os.setresuid(*[int(words[1])] * 3)
        elif words[0] == "regain":
            return self.regain(control)
        else:
            return False
        control.tell(done=True)
        return True


    def regain(self, control):
        try:
            os.setuid(0)
        except PermissionError:
            pass
        control.tell(done=os.geteuid() == 0)
        return True


class LimitedThreads(Limited):
    """Which has a second thread."""

    def setup(self, control):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super().setup(control)


class Tampering(Quiet):
    """`tamper profile|trace`, then `untamper`: hooks of its own, set while it is injected."""

    def command(self, words, control):
        if words[0] == "tamper":
            {"profile": sys.setprofile, "trace": sys.settrace}[words[1]](lambda *_: None)
        elif words[0] == "untamper":
            sys.setprofile(None)
            sys.settrace(None)
        else:
            return False
        control.tell(done=True)
        return True


STATES = {"tampering": Tampering, "descriptors": Descriptors, "jailed": Jailed, "limited": Limited, "limited_threads": LimitedThreads, "scanning": Scanning}
