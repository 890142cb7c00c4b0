"""The page (docs/reliability.md is one) from the file of results: what was tried, and what came of it."""
import collections
import json
import os
import re
import signal

import report_kernels
import table

PAGE = "reliability.md"
TOLD = 12  # failures that are quoted
BEFORE = "before"  # the commit of rows that do not say theirs, where the file's order leaves it open
KINDS = (("session", "sessions"), ("fault", "faults"), ("beside", "beside gdb"), ("cycles", "targets of many"))
GOALS = (("p50", 0.5, 300000), ("p99", 0.99, 1000000))  # ns, below which a target is to stand still beside gdb
FOR_P99 = 100  # values, of which it is the largest


def read_rows(path):
    """Rows of the file; a line that a killed run cut is passed over."""
    if not os.path.exists(path):
        return
    with open(path) as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                pass


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def us(ns):
    return "" if ns is None else "%d" % round(ns / 1000.0)


def ms(ns):
    return "" if ns is None else "%d" % round(ns / 1e6)


def three(values, spell):
    ordered = sorted(values)
    return [spell(percentile(ordered, 0.5)), spell(percentile(ordered, 0.99)), spell(ordered[-1] if ordered else None)]


class Sum:
    """What is told of a set of sessions."""

    def __init__(self):
        self.sessions = self.refused = self.failures = self.residue = self.killed = self.swept = 0
        self.pauses, self.hooked, self.retries, self.gaps, self.noise, self.leases = [], [], [], [], [], []
        self.codes = collections.Counter()
        self.laps = self.harmed = self.eintr = self.late = 0
        self.maps, self.rss = [], []  # what a target grew by, for each session
        self.pythons, self.longest = set(), 0

    def session(self, row):
        self.sessions += 1
        self.pythons.add(row["python"])
        self.codes["%s%s" % (row["code"], " " + row["error"] if "error" in row else "")] += 1
        self.refused += row["code"] in (4, 5, 6, 8) and "failure" not in row
        self.failures += "failure" in row
        self.residue += row["code"] == 10
        self.late += row.get("late", False)
        for name, values in (("pause_ns", self.pauses), ("hooked_ns", self.hooked), ("gap_ns", self.gaps), ("noise_ns", self.noise)):
            if row.get(name) is not None:
                values.append(row[name])
        if row["action"] == "kill" and row["code"] == -signal.SIGKILL:  # not one that was refused before
            self.killed += 1
            self.swept += "swept" in row
            self.leases.append(row["lease_ns"])
        if row.get("attempts"):
            self.retries.append(row["attempts"] - 1)

    def lap(self, row):
        self.laps += 1
        self.eintr += row.get("eintr_of_kills") or 0
        self.harmed += bool(row["harms"])
        self.longest = max(self.longest, row["sessions"])
        if row["sessions"] and "maps_grew" in row:
            self.maps.append(row["maps_grew"] / row["sessions"])
            self.rss.append(row["rss_grew"] / 1024.0 / row["sessions"])


def commit_of(run):
    return run["commit"] + (" with changes" if run["changed"] else "")


class Commits:
    """How many sessions of each kind are of which commit. Rows of before they said so are of the run
    whose head precedes them, if none of its laps has the number of an earlier run's: else two runs
    wrote at once, or files were joined."""

    def __init__(self):
        self.said, self.runs, self.highest = collections.defaultdict(collections.Counter), [], 0

    def head(self, run):
        self.runs.append([commit_of(run), self.highest, True, collections.Counter()])

    def count(self, row):
        if "commit" in row:
            self.said[row["commit"]][row["t"]] += 1
        elif self.runs:
            run = self.runs[-1]
            run[2] = run[2] and row.get("lap", run[1] + 1) > run[1]
            run[3][row["t"]] += 1
        else:
            self.said[BEFORE][row["t"]] += 1
        self.highest = max(self.highest, row.get("lap", 0))

    def total(self):
        """{commit: counts}, in the order of the file."""
        found = {commit: collections.Counter() for commit, _, _, _ in self.runs}
        for commit, _, certain, counts in self.runs:
            found.setdefault(commit if certain else BEFORE, collections.Counter()).update(counts)
        for commit, counts in self.said.items():
            found.setdefault(commit, collections.Counter()).update(counts)
        return found


class Book:
    """All rows, sorted."""

    def __init__(self, rows):
        self.total, self.states, self.pythons = Sum(), collections.defaultdict(Sum), collections.defaultdict(Sum)
        self.actions = collections.defaultdict(Sum)
        self.runs, self.bad, self.skips, self.faults, self.beside = [], [], {}, [], collections.defaultdict(list)
        self.notes, self.had, self.had_laps = collections.Counter(), set(), set()
        self.fault_laps, self.only_faults, self.commits = Sum(), False, Commits()
        self.plans, self.cycles = [], []
        for row in rows:
            self.take(row)

    def of_faults(self, row):
        """Whether a lap is one of the fault table's: its sessions are rows of another kind."""
        return self.only_faults or row["sessions"] > 0 and row["lap"] not in self.had_laps

    def take(self, row):
        kind = row["t"]
        if kind in dict(KINDS):
            self.commits.count(row)
        if kind == "run":
            self.runs.append(row)
            self.only_faults = row.get("what") == "faults"
            self.commits.head(row)
        elif kind == "fault":
            self.faults.append(row)
        elif kind == "plan":
            self.plans.append(row)
        elif kind in ("beside", "noise"):
            if "still_ns" in row:  # not so in files of before
                self.beside[row["state"], row["tool"], row["python"], row["eyes"]].append(row)
        elif kind == "cycles":
            self.cycles.append(row)
        elif kind == "skip":
            self.skips[row["state"], row["python"]] = row["why"]
        elif kind == "note":
            self.notes[row["state"], scrub(row["why"])[:160]] += 1
        elif kind == "session":
            self.had.add((row["state"], row["python"]))
            self.had_laps.add(row["lap"])
            for one in (self.total, self.states[row["state"]], self.pythons[row["python"]], self.actions[row["action"]]):
                one.session(row)
        elif kind == "lap" and self.of_faults(row):
            self.fault_laps.lap(row)
        elif kind == "lap":
            for one in (self.total, self.states[row["state"]], self.pythons[row["python"]]):
                one.lap(row)
        if row.get("failure") or row.get("harms"):
            self.bad.append(row)


def scrub(text):
    """On one line, with no path of this machine."""
    return re.sub(r"/(?:[\w.+-]+/)+", ".../", " ".join(text.split()))


def line(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def head(*cells):
    return [line(*cells), line(*["---"] * len(cells))]


FIGURES = ("sessions", "targets", "refused", "failed", "harmed", "left", "pause p50", "p99", "max (us)", "hooked p50", "p99", "max (ms)",
           "stops again: mean", "most", "mappings more: p50", "max", "KiB more: p50", "max")


def figures(one):
    retries = ("%.2f" % (sum(one.retries) / len(one.retries)), max(one.retries)) if one.retries else ("", "")
    return [one.sessions, one.laps, one.refused or "", one.failures or "", one.harmed or "", one.residue or ""] + \
        three(one.pauses, us) + three(one.hooked, ms) + list(retries) + grown(one.maps, "%.2f") + grown(one.rss, "%.1f")


def grown(values, spell):
    ordered = sorted(values)
    return [spell % percentile(ordered, 0.5), spell % ordered[-1]] if ordered else ["", ""]


def tell_total(book):
    t = book.total
    yield "**%d sessions on %d targets: %d failed, %d targets harmed.** " % (t.sessions, t.laps, t.failures, t.harmed) + \
        "%d were refused, as they should be, with nothing changed; in %d the launcher was SIGKILLed at a random moment; " % (t.refused, t.killed) + \
        "the target that lived longest saw %d sessions." % t.longest
    yield ""
    if book.faults:
        yield "The sessions under \"Faults\" are not among them: %d, of which %d failed; %d targets harmed. Their targets saw %d EINTRs, " \
            "one at most in a session, and only where the launcher was killed or ptrace itself was made to fail: of a thread that lives the kernel refuses neither " \
            "its registers nor its pending signals, without which nobody can tell that its wait is to go on." % (
                len(book.faults), sum("failure" in row for row in book.faults), book.fault_laps.harmed, book.fault_laps.eintr)
        yield ""
    if t.killed:
        yield "After a SIGKILL what runs in the target leaves by itself: within p50 %s ms, p99 %s ms, at most %s ms; " % tuple(three(t.leases, ms)) + \
            "in %d of them something stayed in which nobody runs, a mapping that was never used or a thunk under a call that lasts, and `detach` " % t.swept + \
            "swept it. Anything else that stays is a failure."
        yield ""
    yield "A launcher that is SIGKILLed while it holds a thread stopped can't put its system call back: %d such EINTRs were seen, in %d kills " % (t.eintr, t.killed) + \
        "(they are not harms here, a kernel that loses its tracer does the same to any program; one in another session, or two in one, would be). " \
        "In %d sessions thunk pages stayed, and they said so (exit 10): a traced call lasted longer than the launcher waits, and the next detach had " \
        "to find the target clean; or it was `framehook_toggles`." % t.late
    yield ""
    if t.pauses:
        yield "A target stood still for p50 %s us, p99 %s us, at most %s us; from the launcher's start to HOOKED took p50 %s ms, p99 %s ms, at most %s ms." \
            % tuple(three(t.pauses, us) + three(t.hooked, ms))
        yield ""
    if t.gaps:
        yield "Seen from inside, in a target that does nothing but read the clock (`registers`): the largest gap in a session's time has p50 %s us, " \
            "p99 %s us, at most %s us; in a step without a session p50 %s us, p99 %s us, at most %s us, which is the machine's own noise." \
            % tuple(three(t.gaps, us) + three(t.noise, us))
        yield ""


def missed(rows, what):
    """Goals that a set of visits misses; p99 is not judged where it would be the largest."""
    values = sorted(row[what] for row in rows)
    found = [(name, percentile(values, share), goal) for name, share, goal in GOALS if name != "p99" or len(values) > FOR_P99]
    return ["%s %s us" % (name, us(value)) for name, value, goal in found if value >= goal]


def tell_goals(book):
    yield "mempulse's goal is %s." % " and ".join("%s < %s us" % (name, us(goal)) for name, _, goal in GOALS)
    for what, word in (("held_ns", "held"), ("still_ns", "still")):
        ours = {(state, python): missed(rows, what) for (state, tool, python, _), rows in sorted(book.beside.items()) if tool == "mempulse"}
        bad = ["%s on %s (%s)" % (state, python, ", ".join(names)) for (state, python), names in ours.items() if names]
        yield "By the time %s it is missed by %s." % (word, "; ".join(bad)) if bad else "By the time %s no row misses it." % word
    own = sorted(row["still_ns"] for (_, tool, _, _), rows in book.beside.items() if tool == "none" for row in rows)
    if own:
        yield "For %s us of work the machine itself took, of all times together, %s us at p50, %s at p99 and %s at most." \
            % ((us(GOALS[0][2]),) + tuple(three(own, us)))
    yield ""


def tell_beside(book):
    if not book.beside:
        return
    yield "## Beside gdb"
    yield ""
    yield "For how long the target is held by a tracer when mempulse attaches and detaches, and when `gdb -batch -p PID` does; in turns, " \
        "in one run (`make campaign CAMPAIGN=--beside`). By `events` the kernel itself tells it: the target's thread left its core in " \
        "state `t` (sched_switch), and was woken (sched_waking); by `stat` /proc/PID/stat tells it to one who reads it again and again, who needs " \
        "a core for that. Held is the sum of all stops; still has what ran in between as well: the calls that the tracer has it make, and what " \
        "it waits for a core. memray and others attach through gdb. gdb is slow to come and go, and visits less often; where p99 would be the " \
        "largest of all, none is given. `none` is the machine itself: how long a thread of the onlooker's takes for 300 us of work, before each of " \
        "mempulse's visits."
    yield ""
    yield from head("target", "tool", "python", "visits", "held p50", "p99", "max (us)", "still p50", "p99", "max (us)", "whole visit p50 (ms)", "told by", "exact to (us)")
    for (state, tool, python, eyes), rows in sorted(book.beside.items()):
        held, still = (three([row[what] for row in rows], us) for what in ("held_ns", "still_ns"))
        if len(rows) <= FOR_P99:
            held[1] = still[1] = ""
        yield line(state, tool, python, len(rows), *held, *still,
                   ms(percentile(sorted(row["took_ns"] for row in rows), 0.5)), eyes, us(percentile(sorted(row["step_ns"] for row in rows), 0.5)))
    yield ""
    yield from tell_goals(book)


def tell_cycles(book):
    if not book.cycles:
        return
    yield "## Many sessions in one target"
    yield ""
    yield "RSS (from smaps_rollup, page by page) and mappings of one target before its first session, after it and one with `--lines`, " \
        "and after the last of as many that take turns (`make campaign CAMPAIGN=\"--cycles 1000\"`). A harm is what differs between the last two, and " \
        "RSS that grew by more than %d KiB." % (book.cycles[0]["rss_room"] >> 10)
    yield ""
    yield from head("state", "python", "sessions", "KiB before", "after the first two", "after the last", "mappings before", "after the first two",
                    "after the last", "harms")
    for row in sorted(book.cycles, key=lambda row: (row["state"], row["python"])):
        sizes = [row.get(at, {}) for at in ("before", "first", "last")]
        yield line(row["state"], row["python"], row["sessions"], *["%d" % (s["rss"] >> 10) if s else "" for s in sizes],
                   *[s.get("maps", "") for s in sizes], len(row["harms"]) or "")
    yield ""


def tell_machine(book):
    yield "## Where"
    yield ""
    seen = []
    for run in book.runs:
        text = "%s, commit %s; %d CPUs (%s), %.0f GiB; Linux %s, %s; %s" % (
            run["version"], commit_of(run), run["cpus"], run["cpu"],
            run["memory_kb"] / 1048576.0, run["kernel"].split("-")[0], run["libc"], run["date"])
        if text not in seen:
            seen.append(text)
            yield "- " + text
    yield ""
    yield from head("commit", *[title for _, title in KINDS])
    for commit, counts in book.commits.total().items():
        if counts:
            yield line(commit, *[counts[kind] or "" for kind, _ in KINDS])
    yield ""


def tell_table(title, rows):
    yield from head(title, *FIGURES)
    for name, one in rows:
        yield line(name, *figures(one))
    yield ""


def tell_states(book):
    yield "## By state"
    yield ""
    yield "What a target grew by is divided by its sessions: the target's own work is in it, and what its first session costs for good " \
        "(libc's malloc arena for one thread more, two mappings). Where the target's own mappings do not move (`STEADY` there, as `still.py` " \
        "and laps of hundreds of sessions showed), each other mapping more or less is a harm."
    yield ""
    yield "The names are those of `tests/campaign/table.py`; `%s` and so on run a part: `make campaign CAMPAIGN=\"--only NAME,NAME\"`." % table.STATES[0].name
    yield ""
    group = None
    for state in table.STATES:
        if state.name not in book.states:
            continue
        if state.group != group:
            group = state.group
            yield ""
            yield "### " + group[0].upper() + group[1:]
            yield ""
            yield from head("state", *FIGURES)
        yield line(state.name, *figures(book.states[state.name]))
    yield ""


def tell_codes(book):
    yield "## By exit code"
    yield ""
    yield "-9 is a launcher that was killed. Codes and names: exit-codes.md."
    yield ""
    yield from head("exit code", "sessions")
    for code, count in sorted(book.total.codes.items(), key=lambda item: -item[1]):
        yield line(code, count)
    yield ""


def tell_skips(book):
    tried = set(book.states)
    never = [s for s in table.STATES if s.name not in tried]
    whys = collections.defaultdict(set)
    for (state, python), why in book.skips.items():
        if (state, python) in book.had:  # at another time
            continue
        whys[state, scrub(why)[:160]].add(python)
    if not whys and not never and not book.notes:
        return
    yield "## Skipped"
    yield ""
    for (state, why), pythons in sorted(whys.items()):
        yield "- %s (%s): %s" % (state, ", ".join(sorted(pythons)), why)
    for state in never:
        if state.name not in {name for name, _ in book.skips}:
            yield "- %s: %s" % (state.name, "no such interpreter here" if state.pythons else "not reached in the time")
    for (state, why), count in sorted(book.notes.items()):
        yield "- %s: %d sessions that need a target of their own: %s" % (state, count, why)
    yield ""


def tell_stopped(book):
    rows = [row for row in book.faults if row["action"] == "stopped" and row["point"] == "output"]
    gaps = [row for row in rows if row.get("gap_ns") is not None]
    if not gaps:
        return ""
    lost = sorted(row["lost"] for row in rows if row.get("lost") is not None and row not in gaps)
    text = " The longest gap was %s ms, without a session %s ms." % (ms(max(row["gap_ns"] for row in gaps)), ms(max(row["noise_ns"] for row in gaps)))
    return text + (" In `fib`, which calls more than there is room for, such a session must have lost records, and says how many: "
                   "from %d to %d." % (lost[0], lost[-1]) if lost else "")


def passages(book):
    """Of (point, action): how many passages of it there are, of which each is to be tried. Laps of before plans were
    written had the time for what they list."""
    counts, tried = collections.Counter(), collections.defaultdict(set)
    for row in book.plans:
        for point, action, n in row["points"]:
            counts[point, action] = max(counts[point, action], n)
    for row in book.faults:
        tried[row["point"], row["action"]].add(row["n"])
    return {what: counts[what] or len(tried[what]) for what in set(counts) | set(tried)}


def untried(action, count, rows):
    """How many passages nobody tried. Allocations are numbered anew in each session."""
    return max(0, count - (len(rows) if action == "enomem" else len({row["n"] for row in rows})))


def tell_beyond(book):
    """Points that a session passes more often than is tried."""
    most = collections.Counter()
    for row in book.plans:
        for point, n in row["beyond"].items():
            most[point] = max(most[point], n)
    if most:
        yield "Only the first %d passages of a point are tried. More than that have, in one session: %s." % (
            max(row["most"] for row in book.plans), ", ".join("%s (%d)" % item for item in sorted(most.items())))
        yield ""


def tell_faults(book):
    if not book.faults:
        return
    yield "## Faults"
    yield ""
    yield "A build with fault points (`src/base/fault.h`): the launcher is killed, stopped for 0.3 s or told that the step failed, at the passages of " \
        "each point (the first ones, where there are many); the target is killed there (`slay`; `bury`: and has ended when the step begins), or it calls _exit, execv or abort itself there, " \
        "in a signal's handler; and an allocation of the launcher's fails, once or from there on. Afterwards the target answers, nothing of ours is left " \
        "(by itself, within the lease; `swept`, by `detach`, may only be what nobody runs in), and the next injection works; what was executed " \
        "lives on, untraced, with nothing of ours. Before a colon stands the way: `detach` of an agent at work, `sweep` of a region that a dead " \
        "launcher left, `cure` of a fork's child, `lines`, `refused` (a debugger has the trace function), `governed` (to 0.01%), `lossy` (a reader that is " \
        "slow for half a second), `late` (a call in the target was late), `undone` (a step failed, and what was done is taken back); else it is `inject`, in states of all kinds. Passages are those of the session that passes the point most often, " \
        "as its own list has them; fired and not reached (a passage that depends on chance) are sessions, those of all interpreters together, and " \
        "untried is how many of the passages there was no time for, on any of them."
    yield ""
    sums = collections.defaultdict(list)
    for row in book.faults:
        sums[row["point"], row["action"]].append(row)
    yield from tell_beyond(book)
    yield "`output`: a full disk, a pipe that nobody holds, one that is full and never read, and the launcher stopped for 30 s while it is hooked. " \
        "The target works on meanwhile; its heartbeat shows no gap of 500 ms beyond the machine's own." + tell_stopped(book)
    yield ""
    yield from head("point", "action", "passages", "fired", "not reached", "untried", "exit codes", "swept", "failed")
    for (point, action), count in sorted(passages(book).items()):
        rows = sums[point, action]
        fired = [row for row in rows if row.get("fired")]
        codes = collections.Counter(row["code"] for row in fired)
        yield line(point, action, count, len(fired), len(rows) - len(fired) or "", untried(action, count, rows) or "", ", ".join("%s: %d" % item for item in codes.most_common()),
                   sum("swept" in row for row in fired) or "", sum("failure" in row for row in rows) or "")
    yield ""


def tell_bad(book):
    if not book.bad:
        return
    yield "## What went wrong"
    yield ""
    yield "%d in all; the first %d:" % (len(book.bad), min(TOLD, len(book.bad)))
    yield ""
    for row in book.bad[:TOLD]:
        text = row.get("failure") or "; ".join(row["harms"])
        yield "- %s on %s, %s: `%s`" % (row["state"], row["python"], row.get("action", "**harmed**"), scrub(text)[:400].replace("`", "'"))
    yield ""


INTRODUCTION = """# Reliability

Written by `make campaign` from its own results; not by hand. To see it for yourself:

    make campaign-roots                  # other Debian releases, for the states `other_root`
    make campaign BUDGET=60              # minutes; goes on where it was stopped
    make campaign-faults BUDGET=60       # ends when all was tried
    make campaign-kernels                # for "Kernels"
    make campaign CAMPAIGN="--cycles 1000"
    make campaign CAMPAIGN=--beside      # for "Beside gdb", on a calm machine
    make campaign CAMPAIGN="--report --output docs/reliability.md"

Each appends to `build/campaign/results.jsonl` and writes `build/campaign/reliability.md` from
it; only the last line writes this page. On 2 CPUs it does some 1,000 sessions a minute while
each target is new, then 1,500: 100,000 take an hour and a quarter.

It needs root: without, states with mounts, namespaces, other users and other roots are skipped,
as is each whose tool (strace, gdb, unshare, setpriv, taskset, chrt) is missing. `make` installs what
building takes, by apt. Into `build/campaign` come jemalloc and tcmalloc (`apt-get download`,
unpacked there) and two venvs with packages from PyPI; with `campaign-roots`, which needs
debootstrap, a root of some 400 MB for each release into `/tmp/roots` (`CAMPAIGN_ROOTS`). `resident_8`
runs where 16 GiB of memory are free, `resident` where 2 GiB are.

Interpreters are `system`, which is /usr/bin/python3; `pyX.Y`, those under `~/.pyenv/versions`
(`PYENV_ROOT`), or `PYTHONS`, a list of paths with colons, instead of both; `venv` and `venv-X.Y`,
with other people's packages; `root-NAME`, /usr/bin/python3 in another release's root, with
its libc. forky's is 3.14, newer than what is supported: refused, with nothing changed, each
time; so a pyenv interpreter is copied there, `root-forky-X.Y`, and runs with forky's libc.

Each target is a Python program in one of the states below that checks itself: a running
checksum of all it computes, EINTR counted around blocking calls made straight through
ctypes, its stdio, which must stay empty; in `queued` signals sent and received, in `registers`
values in integer, float and vector registers and a heartbeat. A target lives for up to some
hundred sessions and is compared from outside with what it was before the first: descriptors,
threads, signal masks, code, and our names; at its end, where targets of that state move none of
themselves, all its mappings. It is *harmed* when it died, computed another value, lost a signal, saw an
EINTR, no longer answers, or has something of ours in it at the end; but for what is said below of launchers
that were killed, and of `framehook_toggles`. A session *failed*
when it ended with an exit code that its state does not allow, or when something of ours, another
descriptor, thread or signal mask was seen from outside right after it, whatever it said itself:
`clean` and `with nothing changed` are looked up here. The last `detach` of each target must find
nothing to do. In `framehook_toggles` another tool comes and goes in the eval-frame slot above ours, which it may
call for as long as it is there: two inert pages may stay, and nothing else, and each session says so (exit 10).

A session is one of: inject and detach after 5 to 30 ms; the same with `--lines`; SIGKILL of the
launcher at a random moment; `detach` from elsewhere; two launchers at once; in the state `ends`, a
target that comes to its own end meanwhile; in `limit_as_any`, `starve`: RLIMIT_AS ends 64 KiB to
12 MiB above what the target has, so that sometime each step of loader and agent is refused
memory. The pause is
the launcher's own figure. The machine has far too much to do meanwhile, five targets for each
CPU, each with its launcher: pauses and times to HOOKED below are those of a machine in trouble.
What a calm one shows stands under "Beside gdb"."""


def write(results, output):
    book = Book(read_rows(results))
    lines = [INTRODUCTION, ""]
    for part in (tell_total, tell_bad, tell_beside, tell_cycles, tell_machine, tell_states):
        lines += part(book)
    lines += ["## By interpreter", ""] + list(tell_table("interpreter", sorted(book.pythons.items())))
    lines += ["## By action", ""] + list(tell_table("action", sorted(book.actions.items())))
    for part in (tell_codes, tell_faults, tell_skips):
        lines += part(book)
    put(output, "\n".join(lines), split(output)[1])


# --- the section that kernels.py writes ------------------------------------------------------

def split(path):
    """(the page but for the section on kernels, that section); "" for what is not there."""
    if not os.path.exists(path):
        return "", ""
    with open(path) as file:
        page = file.read()
    begin = page.find(report_kernels.TITLE + "\n")
    if begin < 0:
        return page, ""
    end = page.find("\n## ", begin)
    end = end + 1 if end >= 0 else len(page)
    return page[:begin] + page[end:], page[begin:end]


def put(path, page, section):
    with open(path, "w") as file:
        file.write("\n\n".join(part.strip() for part in (page, section) if part) + "\n")


def write_kernels(rows, output):
    """The rest of the page stays as it is."""
    put(output, split(output)[0], "\n".join(report_kernels.tell(rows, line, head)))
