"""A process as /proc shows it, for the comparison of before and after."""
import os
import re
import time

OURS = re.compile(r"memfd:mempulse|\[anon:mempulse")  # the names of mappings and descriptors of ours
ARENA = 64 << 20   # glibc's HEAP_MAX_SIZE: what one more malloc arena reserves
GLIBC_SIGNALS = 3 << 31  # SIGCANCEL (32) and SIGSETXID (33)
HANDLER_LOOKS = 20  # 2 ms apart
HEAP_NAMES = ("[heap]", "[stack]", "[vvar]", "[vdso]", "[vsyscall]", "[vvar_vclock]")


def read(pid, name):
    with open("/proc/%d/%s" % (pid, name), "rb") as file:
        return file.read().decode("utf-8", "replace")


def alive(pid):
    """It exists and is no zombie."""
    try:
        return state(pid) not in "ZX"
    except OSError:
        return False


def state(pid):
    return read(pid, "stat").rpartition(")")[2].split()[0]


def rss_bytes(pid):
    """Page by page; statm has counters, which each CPU brings up to date in batches."""
    return int(re.search(r"^Rss: +(\d+) kB$", read(pid, "smaps_rollup"), re.M).group(1)) << 10


OBJECT_ARENAS = (256 << 10, 1 << 20)


class Mapping:
    def __init__(self, line):
        span, self.perms, _, _, inode, *name = line.split(None, 5)
        self.low, self.high = (int(part, 16) for part in span.split("-"))
        self.inode = int(inode)
        self.name = name[0].strip() if name else ""
        self.line = line

    @property
    def size(self):
        return self.high - self.low

    @property
    def anonymous(self):
        return not self.name or self.name.startswith("[anon")

    def key(self):
        """What must be the same afterwards. A heap and a stack may grow."""
        return (self.low, 0 if self.name in HEAP_NAMES else self.high, self.perms, self.name)


def mappings(pid):
    """Names may hold every kind of line's end but the kernel's own, which it escapes."""
    return [Mapping(line) for line in read(pid, "maps").split("\n") if line]


class Snapshot:
    """Best taken while the target stands still (see `pause` in targets/work.py)."""

    def __init__(self, pid):
        self.pid = pid
        self.maps = mappings(pid)
        self.fds = links(pid)
        self.threads = threads(pid)
        self.rss = rss_bytes(pid)


def tasks(pid):
    return sorted(int(tid) for tid in os.listdir("/proc/%d/task" % pid))


def oldest(pid):
    """Its thread that lives for longest: /proc lists them as they began."""
    for tid in os.listdir("/proc/%d/task" % pid):
        if alive(int(tid)):
            return int(tid)
    raise ProcessLookupError(pid)


def threads(pid):
    found = {}
    for tid in tasks(pid):
        try:
            found[tid] = settled_signals(pid, tid)
        except OSError:
            pass  # ended meanwhile
    return found


def settled_signals(pid, tid):
    """A signal that is caught is blocked while its handler runs; what stays blocked was blocked."""
    masks = signals(pid, tid)
    for _ in range(HANDLER_LOOKS):
        if not int(masks["SigBlk"], 16) & int(masks["SigCgt"], 16):
            break
        time.sleep(0.002)
        masks = signals(pid, tid)
    return masks


def standing(pid):
    """Its threads that a tracer holds."""
    found = []
    for tid in tasks(pid):
        try:
            found += [tid] * (state(tid) == "t")
        except OSError:
            pass  # ended meanwhile
    return found


def links(pid):
    found = {}
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            found[int(fd)] = os.readlink("/proc/%d/fd/%s" % (pid, fd))
        except OSError:
            pass  # closed meanwhile
    return found


def signals(pid, tid):
    """The masks of one thread by name: blocked, ignored, caught. glibc catches its
    own two signals from the first pthread_create on, as with any program's first thread."""
    text = read(pid, "task/%d/status" % tid)
    masks = {name: int(value, 16) for name, value in re.findall(r"^(Sig(?:Blk|Ign|Cgt)):\s*(\w+)$", text, re.M)}
    masks["SigCgt"] &= ~GLIBC_SIGNALS
    return {name: "%016x" % value for name, value in masks.items()}


def ours(pid):
    """Mappings and descriptors that bear our name; and code without a file, which no
    target of ours has: a kernel without CONFIG_ANON_VMA_NAME shows no names."""
    try:
        maps = mappings(pid)
        found = [m.line for m in maps if OURS.search(m.line) or m.perms == "r-xp" and not m.name]
        return found + ["fd %d %s" % item for item in links(pid).items() if OURS.search(item[1])]
    except OSError:
        return []


def is_arena(mappings, i):
    """Part of a malloc arena: 64 MiB, aligned to its size, its rest reserved."""
    at = i if "w" in mappings[i].perms else i - 1
    first = mappings[at]
    rest = mappings[at + 1] if at + 1 < len(mappings) else None
    return bool(first.anonymous and first.low % ARENA == 0 and rest and rest.perms == "---p"
                and rest.low == first.high and rest.high == first.low + ARENA)


def arenas(mappings):
    return [m.low for i, m in enumerate(mappings) if "w" in m.perms and is_arena(mappings, i)]


def without_arenas(mappings):
    return [m for i, m in enumerate(mappings) if not is_arena(mappings, i)]


def moved_mappings(before, after):
    """One malloc arena more is glibc's way with any thread that ever ran."""
    was = {m.key() for m in without_arenas(before.maps)}
    now = {m.key() for m in without_arenas(after.maps)}
    found = ["mapping + %x-%x %s %s" % m for m in sorted(now - was)]
    found += ["mapping - %x-%x %s %s" % m for m in sorted(was - now)]
    if len(arenas(after.maps)) > len(arenas(before.maps)) + 1:
        found.append("more than one malloc arena was added")
    return found


def object_arena(before, after):
    """Whether nothing but memory without a name has grown, by one arena of Python's own object
    allocator: 256 KiB, 1 MiB from 3.10 on. It takes one whenever it has none with a free pool,
    and gives it back when nothing at all is in it: not in the gift of who was there last. Beside
    it libc's malloc may have made one, too (moved_mappings)."""
    was, now = ({m.key(): m for m in without_arenas(snapshot.maps)} for snapshot in (before, after))
    moved = [m for key, m in now.items() if key not in was], [m for key, m in was.items() if key not in now]
    return (all(m.anonymous and m.perms == "rw-p" for m in moved[0] + moved[1])
            and sum(m.size for m in moved[0]) - sum(m.size for m in moved[1]) in OBJECT_ARENAS)


def compare_strictly(before, after):
    """Differences of two snapshots of a target that did nothing but wait."""
    return moved_mappings(before, after) + compare(before, after)


def differences(before, after):
    """(kind, text) of each: "ours", "code", "fds", "threads", "signals", "maps"."""
    for line in ours(after.pid):
        yield "ours", "ours: " + line
    was = {m.key() for m in before.maps if "x" in m.perms}
    for m in after.maps:
        if "x" in m.perms and m.key() not in was and not m.inode:
            yield "code", "new code: " + m.line
    for fd in sorted(set(before.fds) | set(after.fds)):
        if before.fds.get(fd) != after.fds.get(fd):
            yield "fds", "fd %d: %s, was %s" % (fd, after.fds.get(fd), before.fds.get(fd))
    for tid in sorted(set(before.threads) | set(after.threads)):
        if before.threads.get(tid) != after.threads.get(tid):
            both = tid in before.threads and tid in after.threads
            yield "signals" if both else "threads", "thread %d: %s, was %s" % (tid, after.threads.get(tid), before.threads.get(tid))
    for text in moved_mappings(before, after):
        yield "maps", text


def compare(before, after):
    """Differences that no work of the target's own explains: something of ours,
    new code, a descriptor, a thread, a signal mask or disposition."""
    return [text for kind, text in differences(before, after) if kind != "maps"]


def wait_until(condition, seconds, what, step=0.005):
    """A deadline loop for what gives no event. Returns what `condition` gave."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError("not within %.1f s: %s" % (seconds, what))
        time.sleep(step)
