"""States whose target does something to the session itself: to its descriptors, its
hooks, its interpreter's audit events. See work.py for the conversation."""
import os
import socket
import sys
import tempfile
import time

import work
from work import checksum


class Quiet(work.State):
    """Works a little; its commands do the rest."""

    def step(self, i):
        time.sleep(0.005)
        return checksum(i % work.PERIOD)


class Descriptors(Quiet):
    """`clash close`: closes all descriptors that are not its own. `clash replace`: puts
    files of its own in their places. `clash socket`: sockets. `look`: what became of them."""

    def setup(self, control):
        self.own = {int(name) for name in os.listdir("/proc/self/fd")}
        self.taken = []

    def command(self, words, control):
        if words[0] == "clash":
            control.tell(clashed=self.clash(words[1]))
        elif words[0] == "look":
            control.tell(**self.look())
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


STATES = {"descriptors": Descriptors}
