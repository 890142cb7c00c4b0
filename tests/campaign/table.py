"""The states a target is put in: one row each.

codes     exit codes of `inject` that the state allows; anything else is a failure
prefix    a command before the interpreter's, or a function of the lap that gives one
launcher  a command before the launcher's, as with prefix
after     what is done to the running target, and undone at the end (a context manager)
pythons   None: every interpreter; "venv": those with other people's packages; "root":
          those of other roots
seconds   of one lap at most; costly: only one such lap at a time"""
import contextlib
import os
import shutil
import signal
import subprocess

import harness
import procfs

CGROUP_1 = "/sys/fs/cgroup/memory", "memory.usage_in_bytes", "memory.limit_in_bytes"
CGROUP_2 = "memory.current", "memory.max"
CGROUP_ROOM = 4 << 20
WAIT = 10


# What targets move of themselves while they work, as still.py has seen it: not compared then.
MOVES = {}
for moved, names in (("threads signals", "threads thread_churn handovers rseq malloc_2 malloc_16 fork_thread"),
                     ("signals", "sigalrm sigprof queued lone_alarms raw_sigtimedwait raw_sigsuspend raw_pause raw_wait4 raw_waitid fork spawn spawn_vfork multiprocessing"),
                     ("fds", "fork fork_thread spawn spawn_vfork multiprocessing raw_wait4 raw_waitid imports uvloop gunicorn celery")):
    for name in names.split():
        MOVES.setdefault(name, set()).update(moved.split())

# Whose mappings stay as they are, with libc's malloc and in hundreds of sessions: compared at the end of a lap.
STEADY = frozenset("""select epoll sleep event read raw_poll raw_ppoll raw_nanosleep raw_syscall_nanosleep raw_futex raw_futex_waitv raw_epoll
                      raw_recv raw_recvmsg raw_recvmmsg raw_socket_read raw_send raw_sendmsg raw_sendmmsg raw_accept raw_connect
                      raw_semtimedop raw_sigtimedwait raw_mq_receive raw_mq_send raw_io_getevents raw_io_pgetevents raw_io_uring fib alloc
                      c_extensions generators registers lone_busy lone_idle lone_alarms malloc_1 malloc_2
                      finalizing stopped traced_by_strace traced_by_gdb limit_as limit_nofile seccomp_kill_memfd seccomp_no_open
                      seccomp_kill_code seccomp_kill_handler seccomp_one_thread hidepid_other""".split())


class State:
    def __init__(self, name, group, target=None, codes=(0,), prefix=(), env=None, after=None, pythons=None,
                 only=None, least=None, costly=False, options=(), eintr=False, worker=False, hurried=False, above=False, launcher=()):
        self.name, self.group, self.target, self.codes = name, group, target or name, codes
        self.prefix, self.env, self.after, self.pythons = prefix, env or {}, after, pythons
        self.launcher = launcher
        self.actions = only          # None: all
        self.least = least           # the first version it exists for
        self.costly = costly         # one at a time on the machine
        self.options = options       # of inject
        self.eintr = eintr           # waits where a stop means EINTR: a launcher killed in the stop leaves it that
        self.worker = worker         # the process that works is another one, whose pid the target says
        self.hurried = hurried       # nobody asks for its GIL: without a launcher that helps an agent never gets it, and stays
        self.above = above           # another tool comes and goes above the thunk, which stays for as long
        self.moves, self.steady = MOVES.get(self.target, ()), name in STEADY


# --- surroundings --------------------------------------------------------------------------

def mounted(command):
    """In a mount namespace of its own, after a command there."""
    return ("unshare", "-m", "--propagation", "private", "sh", "-c", command + ' && exec "$@"', "sh")


def in_root(lap):
    """In another root, with its own /proc there."""
    root = lap.interpreter.root
    return mounted('mount -t proc proc "%s/proc"' % root) + ("chroot", root)


NOBODY = 65534
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
HIDING = "mount -t proc -o hidepid=2 proc /proc"


def closed(path):
    """The uppermost folder of a path that others may not enter, or None."""
    parts = path.split("/")
    folders = ["/".join(parts[:n]) for n in range(2, len(parts))]
    return next((folder for folder in folders if not os.stat(folder).st_mode & 1), None)


def target_as_nobody(lap):
    """Where others may not go to the interpreter, its folder alone is shown there, in a mount namespace of its own."""
    if os.geteuid():
        raise harness.Skip("only root can become another user")
    folder, root = closed(lap.interpreter.path), os.path.dirname(os.path.dirname(lap.interpreter.path))
    if not folder:
        return AS_NOBODY
    stage = "/mnt" + root[len(folder):]
    return mounted('mount -t tmpfs -o mode=755 tmpfs /mnt && mkdir -p "%s" && mount --bind "%s" "%s" && mount --move /mnt "%s"'
                   % (stage, root, stage, folder)) + AS_NOBODY


def target_as_nobody_hidden(lap):
    """The same, where /proc shows it nothing but itself."""
    return mounted(HIDING) + target_as_nobody(lap)


def as_nobody(lap):
    """Its output lies in a folder of its own."""
    if os.geteuid():
        raise harness.Skip("only root can become another user")
    if lap.outputs == lap.folder:
        if closed(os.path.join(lap.folder, "x")):
            raise harness.Skip("others may not enter the folder of the launcher")
        lap.outputs = os.path.join(lap.folder, "nobody-%d" % lap.number)
        os.mkdir(lap.outputs)
        os.chown(lap.outputs, NOBODY, NOBODY)
        lap.on_end(lambda: shutil.rmtree(lap.outputs, ignore_errors=True))
    return AS_NOBODY


def as_nobody_hidden(lap):
    """Behind a /proc that shows no process of another user's. Before 5.8 there was only one /proc for all."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (5, 8):
        raise harness.Skip("this kernel's /proc is the same wherever it is mounted")
    return mounted(HIDING) + as_nobody(lap)


def memory_cgroups():
    """(folder, file of what is used, file of the limit): version 1's controller, else a cgroup2 mount that hands on
    the memory controller."""
    if os.path.isdir(CGROUP_1[0]):
        return CGROUP_1
    with open("/proc/mounts") as file:
        mounts = [line.split() for line in file]
    for folder in [words[1] for words in mounts if words[2] == "cgroup2"]:
        with open(os.path.join(folder, "cgroup.subtree_control")) as file:
            if "memory" in file.read().split():
                return (folder,) + CGROUP_2
    raise harness.Skip("no cgroup here hands on the memory controller")


def in_cgroup(lap):
    folder, *lap.cgroup_files = memory_cgroups()
    path = os.path.join(folder, "mempulse-campaign-%d" % lap.number)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise harness.Skip("no cgroup can be made: %s" % error)
    lap.on_end(lambda: remove_cgroup(path))
    lap.cgroup = path
    return ("sh", "-c", 'echo $$ > "%s/cgroup.procs" && exec "$@"' % path, "sh")


def remove_cgroup(path):
    with contextlib.suppress(OSError):
        os.rmdir(path)


def number(path):
    with open(path) as file:
        return int(file.read())


@contextlib.contextmanager
def little_memory(lap, target):
    """The cgroup's limit lies just above what is used."""
    usage, limit = [os.path.join(lap.cgroup, name) for name in lap.cgroup_files]
    used = number(usage)
    try:
        with open(limit, "w") as file:
            file.write(str(used + CGROUP_ROOM))
    except OSError as error:
        raise harness.Skip("no limit on memory can be set: %s" % error)
    yield


@contextlib.contextmanager
def stopped(lap, target):
    """SIGSTOP; must be stopped still at the end."""
    os.kill(target.pid, signal.SIGSTOP)
    procfs.wait_until(lambda: procfs.state(target.pid) == "T", WAIT, "the target stops")
    yield
    harness.check(procfs.state(target.pid) == "T", "it is no longer stopped: %s", procfs.state(target.pid))
    os.kill(target.pid, signal.SIGCONT)


def traced_by(*argv):
    """Under a tracer that stays; it must be there still at the end."""
    @contextlib.contextmanager
    def after(lap, target):
        if not shutil.which(argv[0]):
            raise harness.Skip("%s is missing" % argv[0])
        tracer = harness.spawn([word.replace("PID", str(target.pid)) for word in argv], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lap.before_exec)
        try:
            procfs.wait_until(lambda: "TracerPid:\t0" not in procfs.read(target.pid, "status"), WAIT, "it is traced")
            yield
            harness.check("TracerPid:\t0" not in procfs.read(target.pid, "status"), "its tracer has lost it")
        finally:
            tracer.terminate()
            try:
                tracer.wait(WAIT)
            except subprocess.TimeoutExpired:
                pass
            harness.reap(tracer)
    return after


def preloaded(library):
    def env(lap):
        path = os.path.join(lap.helpers, library)
        if not os.path.exists(path):
            raise harness.Skip("%s is missing: apt has none, or setup.py has not been run" % library)
        return {"LD_PRELOAD": path}
    return env


NAMESPACES = ("unshare", "-p", "-f", "--kill-child", "-m", "--mount-proc", "-n", "-i", "-u")
USER_NAMESPACE = ("unshare", "-U", "-r")
REFUSED = ("inject", "lines", "two")
GDB = ("gdb", "-nx", "-q", "-p", "PID", "-ex", "set pagination off", "-ex", "continue")

STATES = [State(name, "idle, through Python") for name in ("select", "epoll", "sleep", "event", "read")]
STATES += [State(name, "idle, straight through ctypes") for name in (
    "raw_poll", "raw_ppoll", "raw_nanosleep", "raw_syscall_nanosleep", "raw_futex", "raw_futex_waitv", "raw_mq_receive", "raw_mq_send",
    "raw_readv", "raw_write", "raw_writev", "raw_msgrcv", "raw_msgsnd", "raw_flock", "raw_fcntl", "raw_wait4", "raw_waitid",
    "raw_sigsuspend", "raw_pause")]
STATES += [State(name, "idle, straight through ctypes", eintr=True) for name in (
    "raw_epoll", "raw_epoll_pwait2", "raw_recv", "raw_recvmsg", "raw_recvmmsg", "raw_socket_read", "raw_send", "raw_sendmsg", "raw_sendmmsg",
    "raw_accept", "raw_connect", "raw_semop", "raw_semtimedop", "raw_sigtimedwait", "raw_io_getevents", "raw_io_pgetevents", "raw_io_uring")]
STATES += [State(name, "busy") for name in ("fib", "alloc", "c_extensions", "generators", "recursion", "deep", "registers", "imports")]
STATES += [State(name, "no thread ever") for name in ("lone_busy", "lone_idle", "lone_alarms")]
STATES += [
    State("malloc_1", "malloc"), State("malloc_2", "malloc"), State("malloc_16", "malloc"),
    State("malloc_1_one_arena", "malloc", "malloc_1", codes=(0, 8), env={"MALLOC_ARENA_MAX": "1"}, options=("--timeout", "1s")),
    State("malloc_2_one_arena", "malloc", "malloc_2", env={"MALLOC_ARENA_MAX": "1"}),
    State("idle_one_arena", "malloc", "select", codes=(0, 8), env={"MALLOC_ARENA_MAX": "1"}),
    State("jemalloc_1", "malloc", "malloc_1", env=preloaded("libjemalloc.so.2")),
    State("jemalloc_2", "malloc", "malloc_2", env=preloaded("libjemalloc.so.2")),
    State("jemalloc_16", "malloc", "malloc_16", env=preloaded("libjemalloc.so.2")),
    State("tcmalloc_1", "malloc", "malloc_1", env=preloaded("libtcmalloc_minimal.so.4")),
    State("tcmalloc_2", "malloc", "malloc_2", env=preloaded("libtcmalloc_minimal.so.4")),
    State("tcmalloc_16", "malloc", "malloc_16", env=preloaded("libtcmalloc_minimal.so.4")),

    State("gil_never_asked", "threads", "switch_interval", env=preloaded("woken.so"), hurried=True),
    State("threads", "threads"), State("thread_churn", "threads"), State("handovers", "threads", only=("lines",)), State("threads_500", "threads", costly=True),
    State("small_stack", "threads"), State("leader_gone", "threads"),
    State("coroutine", "threads", codes=(0, 8)), State("rseq", "threads"), State("rseq_off", "threads", "threads", env={"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}),
    State("pinned", "scheduling", "threads", prefix=("taskset", "-c", "0")),
    State("sched_idle", "scheduling", "mixed", prefix=("chrt", "-i", "0")),
    State("nice_19", "scheduling", "mixed", prefix=("nice", "-n", "19")),

    State("sigalrm", "signals"), State("sigprof", "signals"), State("queued", "signals"),
    State("fork", "processes"), State("fork_thread", "processes"), State("fork_storm", "processes"), State("multiprocessing", "processes"),
    State("spawn", "processes"), State("spawn_vfork", "processes"), State("kin", "processes"),

    State("main_ended", "shutting down"), State("at_exit", "shutting down"), State("finalizing", "shutting down", codes=(4,), only=REFUSED),
    State("ends", "shutting down", "mixed", only=("ends",)),

    State("stopped", "held by others", "mixed", codes=(8,), after=stopped, only=REFUSED),
    State("traced_by_strace", "held by others", "mixed", codes=(6,), after=traced_by("strace", "-f", "-o", "/dev/null", "-p", "PID"), only=REFUSED),
    State("traced_by_gdb", "held by others", "sleep", codes=(6,), after=traced_by(*GDB), only=REFUSED),

    State("resident", "size", costly=True), State("resident_8", "size", costly=True), State("mappings", "size", costly=True),
    State("limit_as", "limits", codes=(8,), only=REFUSED), State("limit_as_room", "limits"),
    State("limit_as_any", "limits", "select", only=("starve",)),
    State("limit_nofile", "limits", codes=(8,), only=REFUSED),
    State("cgroup_memory", "limits", "mixed", prefix=in_cgroup, after=little_memory),

    State("seccomp_service", "permissions"), State("seccomp_allow_list", "permissions"), State("seccomp_strict", "permissions"), State("seccomp_kill_memfd", "permissions", codes=(5,), only=REFUSED),
    State("seccomp_no_open", "permissions", codes=(5,), only=REFUSED),
    State("seccomp_kill_code", "permissions", codes=(5,), only=REFUSED), State("seccomp_one_thread", "permissions", codes=(5,), only=REFUSED),
    State("seccomp_kill_handler", "permissions", codes=(5,), only=REFUSED),
    State("seccomp_mode_strict", "permissions", codes=(5,), only=REFUSED),
    State("seccomp_no_new_code", "permissions", codes=(0, 5)),  # thunks (up to 3.11) are new code
    State("dumpable_0", "permissions"), State("setuid_worker", "permissions"),
    State("hidepid", "permissions", "mixed", prefix=target_as_nobody, launcher=as_nobody_hidden),
    State("hidepid_other", "permissions", "mixed", codes=(5,), launcher=as_nobody_hidden, only=REFUSED),
    State("unprivileged", "permissions", "mixed", prefix=target_as_nobody, launcher=as_nobody),

    State("namespaces", "containers", "mixed", prefix=NAMESPACES),
    State("all_namespaces", "containers", "mixed", prefix=NAMESPACES[:1] + USER_NAMESPACE[1:] + NAMESPACES[1:]),
    State("hidepid_own", "containers", "mixed", prefix=target_as_nobody_hidden),
    State("user_namespace", "containers", "mixed", prefix=USER_NAMESPACE),
    State("noexec_tmp", "containers", "mixed", prefix=mounted("for d in /tmp /dev/shm; do mount -t tmpfs -o noexec,nosuid,nodev tmpfs $d || exit; done")),
    State("other_root", "containers", "mixed", prefix=in_root, pythons="root"),
    State("other_root_busy", "containers", "fib", prefix=in_root, pythons="root"),

    State("traced", "with other tools", codes=(0, 6)), State("profiled", "with other tools"), State("covered", "with other tools", codes=(0, 6)),
    State("tracemalloc", "with other tools"), State("framehook", "with other tools"),
    State("framehook_toggles", "with other tools", above=True),
    State("asyncio", "with other tools"), State("asyncio_forever", "with other tools"),
    State("uvloop", "with other tools", pythons="venv"), State("gevent", "with other tools", pythons="venv"),
    State("debugpy", "with other tools", codes=(0, 6), pythons="venv", env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"}),
    State("debugpy_attached", "with other tools", codes=(0, 6), pythons="venv", env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"}),
    State("numpy", "with other tools", pythons="venv"),
    State("gunicorn", "with other tools", pythons="venv", worker=True), State("celery", "with other tools", pythons="venv", worker=True),
    State("venv_covered", "with other tools", "covered", codes=(0, 6), pythons="venv"),
]
