"""The launcher where the kernel, or a policy, does not let it copy descriptors out of
the target: two pipes instead of a socketpair. A seccomp filter on the launcher plays
that kernel; the target has none. Sessions must begin, run and end as ever."""
import ctypes
import errno
import os
import signal
import struct
import subprocess
import sys

import cli
import harness
import procfs
import scenarios
import sessions
from harness import check

PIDFD_OPEN, PIDFD_GETFD = 434, 438
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7fff0000, 0x00050000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
PIPES = "plan: channel: two pipes"
SOCKET = "plan: channel: a socketpair"

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """struct sock_fprog"""
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Binary(str):
    """A mempulse for which some system calls answer an errno. harness.Launcher calls
    before_exec in the child; all it needs is made before the fork."""

    def __new__(cls, path, numbers, err):
        self = super().__new__(cls, path)
        code = [(LOAD_WORD, 0, 0, 0)]  # seccomp_data.nr
        for number in numbers:
            code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, SECCOMP_RET_ERRNO | err)]
        code.append((RETURN, 0, 0, SECCOMP_RET_ALLOW))
        self.code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in code))
        self.program = Program(len(code), ctypes.addressof(self.code))
        return self

    def before_exec(self):
        if (libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or
                libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(self.program), 0, 0) != 0):
            os._exit(99)


class Context:
    """Another test's context, with the launcher under a filter."""

    def __init__(self, context, numbers=(PIDFD_OPEN, PIDFD_GETFD), err=errno.ENOSYS):
        self.plain = context
        self.binary = Binary(context.binary, numbers, err)

    def __getattr__(self, name):
        return getattr(self.plain, name)


# --- which way is taken ---------------------------------------------------------------

REFUSALS = (
    ((), 0, SOCKET),
    ((PIDFD_OPEN, PIDFD_GETFD), errno.ENOSYS, PIPES),  # before 5.3
    ((PIDFD_GETFD,), errno.ENOSYS, PIPES),             # before 5.6: a pidfd, but no copies
    ((PIDFD_OPEN, PIDFD_GETFD), errno.EPERM, PIPES),   # a container's policy
    ((PIDFD_GETFD,), errno.EPERM, PIPES),
)


def way(context):
    """-v says which; and each works."""
    with harness.Target(context.python, "select") as target:
        for numbers, err, wanted in REFUSALS:
            binary = Context(context, numbers, err).binary
            result = harness.run(binary, "inject", "-p", target.pid, "-d", "100ms", "-v", "-o", os.devnull).expect(0)
            check(wanted in result.err, "'%s' was expected with %s, %d\n%s", wanted, numbers, err, result)
        differences = procfs.compare_strictly(target.before, target.pause())
        check(not differences, "the target is not as before:\n%s", "\n".join(differences))


# --- one target, looked at from several sides --------------------------------------------

def pipes_of(pid):
    """Ours: above what the target itself has."""
    return {fd: link for fd, link in procfs.links(pid).items() if link.startswith("pipe:") and fd >= 512}


def opens(path, flags):
    """Whether a user of no privileges may open it, told by a process of that user."""
    code = "import os, sys\ntry: os.open(%r, %d)\nexcept PermissionError: sys.exit(13)" % (path, flags)
    child = harness.spawn(["setpriv", "--reuid=%d" % cli.NOBODY, "--regid=%d" % cli.NOBODY, "--clear-groups",
                           sys.executable, "-c", code])
    try:
        return child.wait(harness.PATIENCE) == 0
    finally:
        harness.reap(child)


def impostor(context):
    """Another user cannot open the pipes, neither end; the session does not notice."""
    cli.as_nobody(context)
    path = context.file("impostor.ndjson")
    with harness.Target(context.python, "fib") as target:
        with sessions.inject(context, target, "--json", "-o", path, "--max-overhead", "0") as launcher:
            launcher.wait_attached()
            found = pipes_of(target.pid)
            check(len(found) == 3, "two pipes of ours and the one that wakes the agent were expected: %s", procfs.links(target.pid))
            for fd in found:
                for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK, os.O_RDWR):
                    check(not opens("/proc/%d/fd/%d" % (target.pid, fd), flags), "nobody opened fd %d, flags %o", fd, flags)
            target.grow(scenarios.CALLS, scenarios.PAGES)
            target.work(1)
            harness.run(context.binary, "detach", "-p", target.pid).expect(0)
            launcher.result().expect(0)
        leaks = harness.stream_of(path).of("call", "leak_pages")
        check(len(leaks) == scenarios.CALLS, "%d records of leak_pages, %d were expected", len(leaks), scenarios.CALLS)
        target.check_untouched()


def without_privileges(context):
    """A command's prefix: another user, or, where that one may not read the interpreter,
    root without a capability."""
    prefix = cli.as_nobody(context)
    for prefix in (prefix, ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]):
        done = subprocess.run(prefix + [context.python, "-c", ""], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            return prefix
    raise harness.Skip("no user without privileges can run it")


def own_process(context):
    """Without privileges, on a process of one's own."""
    prefix = without_privileges(context)
    with harness.Target(context.python, "fib", prefix=prefix) as target:
        result = harness.run(context.binary, "inject", "-p", target.pid, "-d", "200ms", "-v", "-o", os.devnull, prefix=prefix)
        if result.code == 5:
            raise harness.Skip("Yama forbids it")
        result.expect(0)
        check(PIPES in result.err, "another way was taken\n%s", result)
        target.check_untouched()


def other_namespaces(context):
    """A target in network, IPC and UTS namespaces of its own: a pipe knows none of them."""
    prefix = ["unshare", "-n", "-i", "-u"]
    probe = subprocess.run(prefix + ["true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if probe.returncode != 0:
        raise harness.Skip("no new namespaces here")
    with harness.Target(context.python, "fib", prefix=prefix) as target:
        result = harness.run(context.binary, "inject", "-p", target.pid, "-n", "20", "-v", "-o", os.devnull).expect(0)
        check(PIPES in result.err, "another way was taken\n%s", result)
        target.check_untouched()


def status(context):
    """status and detach need no descriptor of the target's, whoever asks."""
    with harness.Target(context.python, "fib") as target:
        with sessions.inject(context, target, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            for binary in (context.binary, context.plain.binary):
                found = harness.parse_row(harness.run(binary, "status", "-p", target.pid, "--json").expect(0).out)
                check(found["injected"] and found["alive"] and found["launcher_pid"] == launcher.process.pid, "%s", found)
                check(found["state"] == "hooked", "%s", found)
            detached = harness.run(context.plain.binary, "detach", "-p", target.pid).expect(0)
            check("nothing left behind" in detached.out, "it does not say so\n%s", detached)
            launcher.result().expect(0)
        target.check_untouched()


def child_outlives(context):
    """The target is killed while a child that it forked holds the agent's ends open: the
    launcher, which has no pidfd, gets no event, and sees the end all the same."""
    path = context.file("orphan.ndjson")
    with harness.Target(context.python, "menu") as target:
        with sessions.inject(context, target, "--json", "-o", path) as launcher:
            launcher.wait_attached()
            check(target.ask("orphan").get("orphan"), "it does not fork")
            target.process.kill()
            launcher.result().expect(11)
        end = harness.stream_of(path).end
        check(end["reason"] == "target_exited", "the reason is %s", end)
        target.account = {}


def growth(context, state):
    row = next(row for row in scenarios.GROWING if row.state == state)
    scenarios.growing(context, row)


def signalled(context):
    """The launcher is told to go: it takes leave of the agent over the pipe."""
    with harness.Target(context.python, "fib") as target:
        with sessions.inject(context, target, "-o", os.devnull) as launcher:
            launcher.wait_attached()
            launcher.signal(signal.SIGTERM)
            launcher.result().expect(143)
        check(not procfs.ours(target.pid), "left: %s", procfs.ours(target.pid))
        check(not pipes_of(target.pid), "left: %s", pipes_of(target.pid))
        target.check_untouched()


OWN = (
    ("growth, waiting", lambda context: growth(context, "select")),
    ("growth, threads", lambda context: growth(context, "threads")),
    ("growth, forks", lambda context: growth(context, "fork")),
    ("another user", impostor),
    ("own process, unprivileged", own_process),
    ("namespaces", other_namespaces),
    ("status and detach", status),
    ("child outlives the target", child_outlives),
    ("signal", signalled),
)
SESSIONS = ("waiting target, exactly as before", "launcher killed in mid-stream", "launcher killed while it injects",
            "target exits", "target execs", "target is killed", "target finishes", "frame that stays",
            "residue is reused", "detach from elsewhere")
SHORT = ("another user", "launcher killed in mid-stream")


def tests(short):
    yield "channel, which way", way
    for name, function in OWN + tuple(row for row in sessions.TESTS if row[0] in SESSIONS):
        if not short or name in SHORT:
            yield "channel pipes, " + name, lambda context, function=function: function(Context(context))
