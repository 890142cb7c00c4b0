"""The section "Kernels" of the campaign's page, from the rows of kernels.py."""
import collections

TITLE = "## Kernels"
PROBES = (("statm", "a lone thread", "statm: own pages"), ("statm", "other threads", "statm: of four other threads"),
          ("synced", "a lone thread", "statm, after the thread gave back a page: own pages"), ("synced", "other threads", "the same: of four other threads"),
          ("minflt", "a lone thread", "RUSAGE_THREAD minor faults"), ("rollup", "a lone thread", "smaps_rollup: own pages"),
          ("rollup", "other threads", "smaps_rollup: of four other threads"))

WORDS = """`make campaign-kernels` boots other kernels under qemu, with this machine's userland, and runs the
core of the campaign and the live tests there. An emulated CPU is ten times slower, so the
pauses say nothing; what is right or wrong does not depend on that."""

PROBE_WORDS = """Which probes are exact. Pages are touched one by one, and after each the probe is compared with
their number (`tests/campaign/guest/probes.c`): `0` is exact, `-66..0` is up to 66 pages behind.
Below, what the agent's self-test says of itself in `meta`: the largest error of statm and of
the faults in its sessions, and whether smaps_rollup can be read."""


class Kernel:
    """All rows of one."""

    def __init__(self, release):
        self.release, self.head, self.done = release, {}, False
        self.probes, self.selftests, self.bad = {}, [], []
        self.sessions = self.laps = self.harmed = self.failed = 0
        self.skips, self.tests = [], collections.Counter()

    def take(self, row):
        kind = row["t"]
        if kind == "kernel":
            self.head = row
        elif kind == "probe":
            self.probes[row["probe"], row["who"]] = row
        elif kind == "selftest" and "selftest" in row:
            self.selftests.append(row)
        elif kind == "session":
            self.sessions += 1
            self.failed += "failure" in row
        elif kind == "lap":
            self.laps += 1
            self.harmed += bool(row["harms"])
        elif kind == "skip":
            self.skips.append(row)
        elif kind == "test":
            self.tests[row["outcome"]] += 1
        elif kind == "done":
            self.done = True
        if row.get("failure") or row.get("harms"):
            self.bad.append(row)


def how(head):
    return "%s, %s" % (head.get("emulator", "").partition(" (")[0].replace("emulator version ", ""), head.get("accel", ""))


def span(low, high):
    return "0" if low == high == 0 else "%d..%d" % (low, high)


def worst(kernel, field):
    return max((abs(row["selftest"][field]) for row in kernel.selftests), default=None)


def statm(kernel):
    """With what the agent does for it."""
    synced = sum(row["selftest"].get("statm_synced", False) for row in kernel.selftests)
    return "%d%s" % (worst(kernel, "statm_error_pages"), ", made exact in %d of %d sessions" % (synced, len(kernel.selftests)) if synced else "")


def rollup(kernel):
    """In how many sessions it was read; none is where a reading would hold a target for too long, as on an emulated CPU."""
    total = len(kernel.selftests)
    counts = collections.Counter("read" if row["selftest"]["rollup"] else "too slow" if row["selftest"].get("rollup_long") else "unreadable"
                                 for row in kernel.selftests)
    return ", ".join("%s in %d of %d sessions" % (how, count, total) for how, count in sorted(counts.items()))


def probe_lines(kernels, line, head):
    yield from head("probe", *[kernel.release for kernel in kernels])
    for probe, who, title in PROBES:
        found = [kernel.probes.get((probe, who)) for kernel in kernels]
        yield line(title, *[span(row["low"], row["high"]) if row else "" for row in found])
    for title, spell in (
            ("self-test: statm, pages", statm),
            ("self-test: faults, pages", lambda k: worst(k, "minflt_error_pages")),
            ("self-test: smaps_rollup", rollup),
            ("self-test: sessions", lambda k: len(k.selftests))):
        yield line(title, *[spell(kernel) if kernel.selftests else "" for kernel in kernels])
    yield ""


def tell(rows, line, head):
    """Lines of the section; none without rows."""
    kernels = {}
    for row in rows:
        kernels.setdefault(row["kernel"], Kernel(row["kernel"])).take(row)
    kernels = sorted(kernels.values(), key=lambda kernel: [int(part) for part in kernel.release.split("-")[0].split("+")[0].split(".")])
    if not kernels:
        return
    yield from (TITLE, "", WORDS, "")
    yield from head("kernel", "how", "sessions", "targets", "failed", "harmed", "live tests", "failed", "skipped", "date")
    for k in kernels:
        yield line(k.release + ("" if k.done else " (cut short)"), how(k.head), k.sessions,
                   k.laps, k.failed or "", k.harmed or "", sum(k.tests.values()), k.tests["failed"] or "", k.tests["skipped"] or "", k.head.get("date", ""))
    yield from ("", PROBE_WORDS, "")
    yield from probe_lines(kernels, line, head)
    for k in kernels:
        for row in k.bad:
            what = row.get("name") or "%s, %s" % (row.get("state"), row.get("action", "**harmed**" if row["t"] == "lap" else row["t"]))
            text = row.get("failure") or "; ".join(row["harms"])
            if text.startswith("Traceback"):
                text = text.strip().splitlines()[-1]
            yield "- %s, %s, %s: `%s`" % (k.release, row.get("python", ""), what, " ".join(text.split())[:300].replace("`", "'"))
    yield ""
