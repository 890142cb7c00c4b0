"""Idle states whose waits go straight to libc through ctypes: an EINTR would show, where
Python would take the call up again. One for each call that src/inject/safepoint.c lists
and Python's own waits (states.py) do not make."""
import ctypes
import errno
import fcntl
import os
import signal
import socket
import tempfile
import threading
import time

import work
from work import TICK, TICK_MS, TICK_NS, account, checksum, libc, raw_call

long = ctypes.c_long


class Timespec(ctypes.Structure):
    _fields_ = [("sec", long), ("nsec", long)]


class EpollEvent(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]


class PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


class Sembuf(ctypes.Structure):
    _fields_ = [("num", ctypes.c_ushort), ("op", ctypes.c_short), ("flg", ctypes.c_short)]


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32), ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
                ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int), ("len", ctypes.c_uint)]  # an mmsghdr's


class FutexWaitv(ctypes.Structure):
    _fields_ = [("val", ctypes.c_uint64), ("uaddr", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]


class Msgbuf(ctypes.Structure):
    _fields_ = [("type", long), ("text", ctypes.c_char * 1024)]


class UringArg(ctypes.Structure):
    _fields_ = [("sigmask", ctypes.c_uint64), ("sigmask_size", ctypes.c_uint32), ("pad", ctypes.c_uint32), ("time", ctypes.c_uint64)]


def after(clock, ns):
    """That time of a clock, so much later."""
    now = int(time.clock_gettime(clock) * 1e9) + ns
    return Timespec(now // 1000000000, now % 1000000000)


class Raw(work.State):
    """A blocking call that ends by its own timeout; block() returns what it gave."""
    TRIED = False  # first, since it may not be there

    def setup(self, control):
        self.prepare()
        if self.TRIED:
            self.block()
            if account.errors:
                return "this kernel answers %s" % os.strerror(account.extra["errno"])

    def prepare(self):
        """Once."""

    def step(self, i):
        return checksum((i % work.PERIOD, self.block()))

    def block(self):
        raise NotImplementedError


# --- those with a timeout of their own -------------------------------------------------------

class RawEpoll(Raw):
    def prepare(self):
        self.fd = libc.epoll_create1(0)
        self.events = (EpollEvent * 1)()

    def block(self):
        return raw_call(libc.epoll_wait, self.fd, self.events, 1, TICK_MS)


class RawPoll(Raw):
    def prepare(self):
        self.a, self.b = socket.socketpair()
        self.fds = (PollFd * 1)(PollFd(self.a.fileno(), 1, 0))

    def block(self):
        return raw_call(libc.poll, self.fds, 1, TICK_MS)


class RawPpoll(RawPoll):
    def block(self):
        return raw_call(libc.ppoll, self.fds, 1, ctypes.byref(Timespec(0, TICK_NS)), None)


class RawNanosleep(Raw):
    """Must also last as long as it was asked to."""

    def block(self):
        start = time.perf_counter()
        result = self.sleep(Timespec(0, TICK_NS))
        return result, time.perf_counter() - start >= TICK

    def sleep(self, duration):
        return raw_call(libc.nanosleep, ctypes.byref(duration), None)


class RawSyscallNanosleep(RawNanosleep):
    """By its own number, which libc's nanosleep does not use since 2.31."""
    NUMBER = 35

    def sleep(self, duration):
        return raw_call(libc.syscall, long(self.NUMBER), ctypes.byref(duration), None)


class RawSigtimedwait(Raw):
    def prepare(self):
        self.set = (ctypes.c_ulong * 16)()
        libc.sigemptyset(self.set)
        libc.sigaddset(self.set, signal.SIGUSR2)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    def block(self):
        return raw_call(libc.sigtimedwait, self.set, None, ctypes.byref(Timespec(0, TICK_NS)), expect=errno.EAGAIN)


class RawSemtimedop(Raw):
    IPC_PRIVATE, IPC_RMID = 0, 0

    def setup(self, control):
        self.id = libc.semget(self.IPC_PRIVATE, 1, 0o600)
        if self.id < 0:
            return "no System V semaphores here"
        return super(RawSemtimedop, self).setup(control)

    def block(self):
        take = Sembuf(0, -1, 0)
        timeout = Timespec(0, TICK_NS)
        return raw_call(libc.semtimedop, self.id, ctypes.byref(take), 1, ctypes.byref(timeout), expect=errno.EAGAIN)

    def close(self):
        libc.semctl(self.id, 0, self.IPC_RMID)


class RawFutex(Raw):
    NUMBER, WAIT_PRIVATE = 202, 128

    def prepare(self):
        self.word = ctypes.c_int(0)

    def block(self):
        return raw_call(libc.syscall, long(self.NUMBER), ctypes.byref(self.word), self.WAIT_PRIVATE, 0,
                        ctypes.byref(Timespec(0, TICK_NS)), expect=errno.ETIMEDOUT)


class RawFutexWaitv(Raw):
    NUMBER, SIZE_U32_PRIVATE, TRIED = 449, 2 | 128, True

    def prepare(self):
        self.word = ctypes.c_uint32(0)
        self.waiters = (FutexWaitv * 1)(FutexWaitv(0, ctypes.addressof(self.word), self.SIZE_U32_PRIVATE, 0))

    def block(self):
        return raw_call(libc.syscall, long(self.NUMBER), self.waiters, 1, 0, ctypes.byref(after(time.CLOCK_MONOTONIC, TICK_NS)),
                        time.CLOCK_MONOTONIC, expect=errno.ETIMEDOUT)


class RawMqReceive(Raw):
    OPEN, UNLINK, SEND, RECEIVE, TRIED = 240, 241, 242, 243, True
    FILLED = False

    def prepare(self):
        name = b"mempulse-%d" % os.getpid()
        attributes = (long * 8)(0, 1, 64)  # flags, messages, bytes of each
        self.fd = raw_call(libc.syscall, long(self.OPEN), name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, attributes)
        libc.syscall(long(self.UNLINK), name)
        self.room = ctypes.create_string_buffer(64)
        if self.FILLED:
            libc.syscall(long(self.SEND), self.fd, self.room, long(1), 0, None)

    def block(self):
        return raw_call(libc.syscall, long(self.RECEIVE), self.fd, self.room, long(64), None,
                        ctypes.byref(after(time.CLOCK_REALTIME, TICK_NS)), expect=errno.ETIMEDOUT)


class RawMqSend(RawMqReceive):
    FILLED = True

    def block(self):
        return raw_call(libc.syscall, long(self.SEND), self.fd, self.room, long(1), 0,
                        ctypes.byref(after(time.CLOCK_REALTIME, TICK_NS)), expect=errno.ETIMEDOUT)


class RawIoGetevents(Raw):
    SETUP, GETEVENTS, PGETEVENTS, TRIED = 206, 208, 333, True

    def prepare(self):
        self.context, self.events = ctypes.c_ulong(0), ctypes.create_string_buffer(32)
        raw_call(libc.syscall, long(self.SETUP), 1, ctypes.byref(self.context))

    def block(self):
        return raw_call(libc.syscall, long(self.GETEVENTS), self.context, long(1), long(1), self.events, ctypes.byref(Timespec(0, TICK_NS)))


class RawIoPgetevents(RawIoGetevents):
    def block(self):
        return raw_call(libc.syscall, long(self.PGETEVENTS), self.context, long(1), long(1), self.events,
                        ctypes.byref(Timespec(0, TICK_NS)), None)


class RawIoUring(Raw):
    SETUP, ENTER, GETEVENTS_EXT_ARG, TRIED = 425, 426, 1 | 8, True

    def prepare(self):
        self.fd = raw_call(libc.syscall, long(self.SETUP), 4, ctypes.create_string_buffer(120))

    def block(self):
        duration = Timespec(0, TICK_NS)
        arg = UringArg(0, 8, 0, ctypes.addressof(duration))
        return raw_call(libc.syscall, long(self.ENTER), self.fd, 0, 1, self.GETEVENTS_EXT_ARG, ctypes.byref(arg),
                        long(ctypes.sizeof(arg)), expect=errno.ETIME)


# --- sockets with a timeout: which makes the kernel answer EINTR to any stop -----------------------

class Sockets(Raw):
    """A pair, one of which waits for a TICK to receive, or, when no more can be sent, to send."""
    FULL = False

    def prepare(self):
        self.a, self.b = socket.socketpair()
        if self.FULL:
            self.fill()
        self.limit(self.a)
        self.room = ctypes.create_string_buffer(8)
        self.iovec = Iovec(ctypes.addressof(self.room), 1)
        self.message = Msghdr(iov=ctypes.addressof(self.iovec), iovlen=1)

    @staticmethod
    def limit(sock):
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            libc.setsockopt(sock.fileno(), socket.SOL_SOCKET, option, ctypes.byref(Timespec(0, TICK_NS // 1000)), 16)

    def fill(self):
        self.a.setblocking(False)
        for size in (4096, 1):
            try:
                while True:
                    self.a.send(b"x" * size)
            except BlockingIOError:
                pass
        self.a.setblocking(True)

    def tried(self, function, *args):
        return raw_call(function, self.a.fileno(), *args, expect=errno.EAGAIN)


class RawRecv(Sockets):
    def block(self):
        return self.tried(libc.recv, self.room, 8, 0)


class RawRecvmsg(Sockets):
    def block(self):
        return self.tried(libc.recvmsg, ctypes.byref(self.message), 0)


class RawRecvmmsg(Sockets):
    def block(self):
        return self.tried(libc.recvmmsg, ctypes.byref(self.message), 1, 0, None)


class RawSocketRead(Sockets):
    def block(self):
        return self.tried(libc.read, self.room, 8)


class RawSend(Sockets):
    FULL = True

    def block(self):
        return self.tried(libc.send, self.room, 1, 0)


class RawSendmsg(Sockets):
    FULL = True

    def block(self):
        return self.tried(libc.sendmsg, ctypes.byref(self.message), 0)


class RawSendmmsg(Sockets):
    FULL = True

    def block(self):
        return self.tried(libc.sendmmsg, ctypes.byref(self.message), 1, 0)


class RawAccept(Sockets):
    def prepare(self):
        self.a = socket.socket(socket.AF_UNIX)
        self.a.bind("")  # an abstract name of the kernel's choice
        self.a.listen(1)
        self.limit(self.a)

    def block(self):
        return self.tried(libc.accept, None, None)


class RawConnect(Sockets):
    """To one who has no room for another connection."""

    def prepare(self):
        server = socket.socket(socket.AF_UNIX)
        server.bind("")
        server.listen(0)
        self.kept = [server]
        try:
            while True:
                self.kept.append(socket.socket(socket.AF_UNIX))
                self.kept[-1].setblocking(False)
                self.kept[-1].connect(server.getsockname())
        except BlockingIOError:
            pass
        self.a = socket.socket(socket.AF_UNIX)
        self.limit(self.a)
        self.address = b"\1\0" + server.getsockname()  # AF_UNIX

    def block(self):
        return self.tried(libc.connect, self.address, len(self.address))


# --- those that end when another thread sees to it ---------------------------------------------------

class Woken(Raw):
    """A call without a timeout: wake() ends it a TICK later."""

    def setup(self, control):
        self.asked = threading.Semaphore(0)
        reason = super(Woken, self).setup(control)
        feeder = threading.Thread(target=self.feed, name="feeder")
        feeder.daemon = True
        feeder.start()
        return reason

    def feed(self):
        while True:
            self.asked.acquire()
            time.sleep(TICK)
            self.wake()

    def block(self):
        self.asked.release()
        return self.wait()


class RawReadv(Woken):
    def prepare(self):
        self.out, self.into = os.pipe()
        self.room = ctypes.create_string_buffer(work.PAGE)
        self.iovec = Iovec(ctypes.addressof(self.room), work.PAGE)

    def wake(self):
        os.write(self.into, b"x")

    def wait(self):
        return raw_call(libc.readv, self.out, ctypes.byref(self.iovec), 1)


class RawWritev(RawReadv):
    """Into a pipe of a page, which is full."""

    def prepare(self):
        super(RawWritev, self).prepare()
        fcntl.fcntl(self.into, 1031, work.PAGE)  # F_SETPIPE_SZ
        os.write(self.into, self.room.raw)

    def wake(self):
        os.read(self.out, work.PAGE)

    def wait(self):
        return raw_call(libc.writev, self.into, ctypes.byref(self.iovec), 1)


class RawWrite(RawWritev):
    def wait(self):
        return raw_call(libc.write, self.into, self.room, long(work.PAGE))


class RawSemop(Woken, RawSemtimedop):
    def wake(self):
        libc.semop(self.id, ctypes.byref(Sembuf(0, 1, 0)), 1)

    def wait(self):
        return raw_call(libc.semop, self.id, ctypes.byref(Sembuf(0, -1, 0)), 1)


class RawMsgrcv(Woken):
    IPC_PRIVATE, IPC_RMID, IPC_NOWAIT = 0, 0, 0o4000
    FILLED = False

    def setup(self, control):
        self.id = libc.msgget(self.IPC_PRIVATE, 0o600)
        if self.id < 0:
            return "no System V message queues here"
        self.sent, self.got = Msgbuf(1), Msgbuf()
        while self.FILLED and libc.msgsnd(self.id, ctypes.byref(self.sent), long(1024), self.IPC_NOWAIT) == 0:
            pass
        return super(RawMsgrcv, self).setup(control)

    def send(self):
        return raw_call(libc.msgsnd, self.id, ctypes.byref(self.sent), long(1024), 0)

    def receive(self):
        return raw_call(libc.msgrcv, self.id, ctypes.byref(self.got), long(1024), long(0), 0)

    wake, wait = send, receive

    def close(self):
        libc.msgctl(self.id, self.IPC_RMID, None)


class RawMsgsnd(RawMsgrcv):
    FILLED = True
    wake, wait = RawMsgrcv.receive, RawMsgrcv.send


class RawFlock(Woken):
    """A lock that another open file of ours holds."""

    def prepare(self):
        file = tempfile.NamedTemporaryFile()
        self.ours, self.other = [os.open(file.name, os.O_RDWR) for _ in range(2)]

    def lock(self, fd, kind):
        return raw_call(libc.flock, fd, kind)

    def block(self):
        self.lock(self.other, fcntl.LOCK_EX)
        result = super(RawFlock, self).block()
        return result, self.lock(self.ours, fcntl.LOCK_UN)

    def wake(self):
        self.lock(self.other, fcntl.LOCK_UN)

    def wait(self):
        return self.lock(self.ours, fcntl.LOCK_EX)


class RawFcntl(RawFlock):
    """F_OFD_SETLKW, since one process's own locks do not exclude each other."""
    OFD_SETLKW, KINDS = 38, {fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}

    def lock(self, fd, kind):
        words = (ctypes.c_short * 16)(self.KINDS[kind])  # struct flock: from 0, all of it
        return raw_call(libc.fcntl, fd, self.OFD_SETLKW, words)


class RawWait4(Woken):
    """For a child, which a thread has end."""

    def block(self):
        self.out, self.into = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            os.close(self.into)
            os.read(self.out, 1)
            os._exit(7)
        os.close(self.out)
        return super(RawWait4, self).block()

    def wake(self):
        os.close(self.into)

    def wait(self):
        status = ctypes.c_int(0)
        return raw_call(libc.wait4, self.child, ctypes.byref(status), 0, None) == self.child, status.value


class RawWaitid(RawWait4):
    P_PID, EXITED = 1, 4

    def wait(self):
        info = (ctypes.c_int * 32)()
        return raw_call(libc.waitid, self.P_PID, self.child, info, self.EXITED), info[6]  # si_status


# --- those that end with a signal, and with nothing else ---------------------------------------------

class RawSigsuspend(Woken):
    """How many handlers ran while it waited: always one."""
    TGKILL, GETTID = 234, 186

    def prepare(self):
        self.set = (ctypes.c_ulong * 16)()
        self.tid, self.count = libc.syscall(long(self.GETTID)), 0
        signal.signal(signal.SIGUSR2, self.handle)
        self.mask()

    def mask(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])

    def handle(self, number, frame):
        self.count += 1
        account.signals_seen += 1

    def wake(self):
        account.signals_sent += 1
        libc.syscall(long(self.TGKILL), os.getpid(), self.tid, int(signal.SIGUSR2))

    def wait(self):
        before = self.count
        self.suspend()
        for _ in range(3):
            self.prompt()
        return self.count - before

    def prompt(self):
        """A call, at which the interpreter looks for signals."""

    def suspend(self):
        libc.sigsuspend(self.set)


class RawPause(RawSigsuspend):
    """The signal is sent when it is there: one that comes before is waited for in vain."""
    NUMBER = 34

    def mask(self):
        self.number = b"%d " % self.NUMBER

    def wake(self):
        while not self.there():
            time.sleep(TICK / 4)
        super(RawPause, self).wake()

    def there(self):
        with open("/proc/self/task/%d/syscall" % self.tid, "rb") as file:
            return file.read().startswith(self.number)

    def suspend(self):
        libc.pause()


STATES = {
    "raw_epoll": RawEpoll, "raw_poll": RawPoll, "raw_ppoll": RawPpoll, "raw_nanosleep": RawNanosleep,
    "raw_syscall_nanosleep": RawSyscallNanosleep, "raw_sigtimedwait": RawSigtimedwait, "raw_semtimedop": RawSemtimedop,
    "raw_futex": RawFutex, "raw_futex_waitv": RawFutexWaitv, "raw_mq_receive": RawMqReceive, "raw_mq_send": RawMqSend,
    "raw_io_getevents": RawIoGetevents, "raw_io_pgetevents": RawIoPgetevents, "raw_io_uring": RawIoUring,
    "raw_recv": RawRecv, "raw_recvmsg": RawRecvmsg, "raw_recvmmsg": RawRecvmmsg, "raw_socket_read": RawSocketRead,
    "raw_send": RawSend, "raw_sendmsg": RawSendmsg, "raw_sendmmsg": RawSendmmsg, "raw_accept": RawAccept, "raw_connect": RawConnect,
    "raw_readv": RawReadv, "raw_write": RawWrite, "raw_writev": RawWritev, "raw_semop": RawSemop, "raw_msgrcv": RawMsgrcv,
    "raw_msgsnd": RawMsgsnd, "raw_flock": RawFlock, "raw_fcntl": RawFcntl, "raw_wait4": RawWait4, "raw_waitid": RawWaitid,
    "raw_sigsuspend": RawSigsuspend, "raw_pause": RawPause,
}
