"""docs/benchmarks.md and its plots, from results.json. What a human has to say about
the numbers is in notes.md, and of a missed goal in why.md; both are put in as they are."""
import math
import collections
import os
import re

import plot

HERE = os.path.dirname(os.path.abspath(__file__))

# load, what it is, goal by interpreter: (3.8-3.10, 3.11, 3.12+), unit
GOALS = (
    ("django", "Django template render, depth 3", (1.03, 1.08, 1.02), ""),
    ("examples", "the original's examples (numpy, uuids, lists), depth 1, `--lines`", (1.03, 1.03, 1.03), ""),
    ("fib", "fib below the traced depth", (1.12, 1.6, 1.05), ""),
    ("fib-through", "fib that recurses through the traced depth", (1.12, 1.6, 1.05), ""),
    ("methods", "small methods below the traced depth", (1.12, 1.6, 1.05), ""),
    ("calls", "every call recorded (`--depth 0`), per call", (1.5, 1.5, 1.5), " us"),
    ("8 GiB", "a target of 8 GiB", (1.02, 1.02, 1.02), ""),
    ("20,000 mappings", "a target of 20,000 mappings", (1.02, 1.02, 1.02), ""),
    ("idle", "injected, nothing in scope", (1.0, 1.0, 1.0), ""),
    ("after", "after detach", (1.0, 1.0, 1.0), ""),
)
CALLS_IN_A_UNIT = 101
SERVERS = (("gunicorn", "gunicorn + Django"), ("asyncio", "asyncio"))
TO_BE_SAID = "*What the profile says, and what was tried: to be written into tests/bench/why.md.*"


def scrub(text):
    """No path, no address of this machine, no host: what is committed is read elsewhere."""
    text = re.sub(r"\w+://[^\s\"')]+", "(address)", text)
    text = re.sub(r"(?<![\w.])/(?:[\w.+@-]+/)+", "", text)
    text = re.sub(r"\b[0-9a-f]{9,16}\b", "(address)", text)
    text = re.sub(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b", "(address)", text)
    return re.sub(r"\b[\w-]+(?:\.[\w-]+)+\.(?:com|org|net|io|dev|internal|local)\b", "(host)", " ".join(text.split()))


def goal_of(goals, python):
    minor = int(python.split("-")[0].split(".")[1])
    return goals[0] if minor <= 10 else goals[1] if minor == 11 else goals[2]


def table(head, rows):
    if not rows:
        return "Not measured.\n"
    out = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(out + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]) + "\n"


def ratio(s, digits=2):
    return "%.*f" % (digits, s["median"]) + (" [%.*f-%.*f]" % (digits, s["q1"], digits, s["q3"]) if s["n"] > 1 else "")


def wall(row):
    """Of twins the third digit means something."""
    return ratio(row["wall"], 3 if row.get("twins") else 2)


def per_call_us(row):
    return (row["tool_us"]["median"] - row["plain_us"]["median"]) / CALLS_IN_A_UNIT


def skipped(row):
    return "not measured" + (": " + scrub(row["skip"])[:90] if row.get("skip") else "")


def value_of(row, name):
    """The number that is held against the goal, and how it is written."""
    if name == "calls":
        value = per_call_us(row)
        return value, "%.2f us" % value
    if name == "after" and row.get("instructions"):
        before, after = row["instructions"]
        return after / before, "%.3f of the instructions (time %s)" % (after / before, wall(row))
    shown = wall(row) + (" (cpu %.2f)" % row["cpu"]["median"] if row.get("cpu") else "")
    return row["wall"]["median"], shown


def slack(row, goal):
    """"Within noise" is what two plain windows differ by; elsewhere it is rounding."""
    if goal != 1.0:
        return 0.005
    noise = row.get("noise") or {"q1": 1.0, "q3": 1.0}
    return max(0.02, (noise["q3"] - noise["q1"]) / 2)


def meets(row, name, goal):
    return value_of(row, name)[0] <= goal + slack(row, goal) and not row.get("wrong") and \
        not re.search("sampled|quiet", row.get("gave_up") or "") and lost_share(row) <= 0.01


def lost_share(row):
    """Of the records. What was lost was cheaper than what was delivered, and is not checked."""
    return row.get("lost", 0) / max(1, row.get("lost", 0) + (row.get("records") or 0))


def goal_cell(row, name, goal):
    if row is None or "skip" in row:
        return "-" if row is None else skipped(row)
    shown = value_of(row, name)[1]
    shown = "**%s**" % shown if meets(row, name, goal) else shown
    shown += "; lost %.0f%% of the records" % (100 * lost_share(row)) if lost_share(row) > 0.01 else ""
    return shown + (" WRONG" if row.get("wrong") else "") + ("; gave up: " + row["gave_up"] if row.get("gave_up") else "")


def find(rows, **wanted):
    for row in rows or ():
        if all(row.get(k) == v for k, v in wanted.items()):
            return row
    return None


def goal_rows(results, bare=False):
    rows = [r for name in ("goals", "others", "big") for r in results.get(name) or []]
    return [r for r in rows if bool(r.get("bare")) == bare]


def by_version(names):
    return sorted(set(names), key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))


def goals(results):
    rows = goal_rows(results)
    pythons = by_version(r["python"] for r in rows if "skip" not in r)
    lines = []
    for name, what, limits, unit in GOALS:
        goal = " / ".join("%g%s" % (g, unit) for g in (limits if len(set(limits)) > 1 else limits[:1]))
        lines.append([what, goal] + [goal_cell(find(rows, goal=name, python=p), name, goal_of(limits, p))
                                     for p in pythons])
    return table(["load", "goal (3.8-3.10 / 3.11 / 3.12+)"] + pythons, lines) + server_goals(results, pythons)


def server_goals(results, pythons):
    lines = []
    for kind, what in SERVERS:
        cells = []
        for p in pythons:
            r = find(results.get("servers"), goal=kind, python=p)
            if r is None or "skip" in r:
                cells.append("-" if r is None else skipped(r))
                continue
            met = r["throughput"]["median"] >= 0.98 and r["p99"]["median"] <= 1.05 and not r.get("wrong")
            shown = "%.2f, p99 %.2f" % (r["throughput"]["median"], r["p99"]["median"])
            cells.append(("**%s**" % shown if met else shown) + (" WRONG" if r.get("wrong") else ""))
        lines.append("| " + " | ".join([what + ": throughput, p99", ">= 0.98, <= 1.05"] + cells) + " |\n")
    return "".join(lines) if results.get("servers") else ""


def bare(results):
    rows = goal_rows(results, True)
    pythons = by_version(r["python"] for r in rows if "skip" not in r)
    lines = [[what] + [goal_cell(find(rows, goal=name, python=p), name, goal_of(limits, p)) for p in pythons]
             for name, what, limits, _ in GOALS if find(rows, goal=name)]
    return table(["load, `--max-overhead 0`"] + pythons, lines)


def missed(results):
    """A heading for each, with what why.md says under the same heading, or the profile and a gap."""
    reasons = written_reasons()
    out = []
    for name, what, limits, unit in GOALS:
        for r in goal_rows(results):
            if r.get("goal") != name or "skip" in r or meets(r, name, goal_of(limits, r["python"])):
                continue
            title = "%s, CPython %s" % (what, r["python"])
            out.append("### %s\n\nGoal %g%s, measured %s.%s\n\n%s\n" % (
                title, goal_of(limits, r["python"]), unit, value_of(r, name)[1],
                " Given up: %s." % r["gave_up"] if r.get("gave_up") else "",
                "\n\n".join(filter(None, [profile_of(results, r["python"], name), reasons.get(title) or reasons.get(what) or TO_BE_SAID]))))
    return "\n".join(out) or "None."


def written_reasons():
    path = os.path.join(HERE, "why.md")
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        parts = re.split(r"^### (.*)$", f.read(), flags=re.M)
    return {parts[i]: parts[i + 1].strip() for i in range(1, len(parts), 2)}


def geometric(results):
    rows = [r for r in results.get("pyperformance") or [] if "wall" in r]
    pythons = by_version(r["python"] for r in rows if "skip" not in r)
    loads = list(dict.fromkeys(r["load"] for r in results.get("pyperformance") or []))
    lines = [[load] + [ratio_or(find(results["pyperformance"], load=load, python=p)) for p in pythons] for load in loads]
    means = []
    for p in pythons:
        logs = [math.log(r["wall"]["median"]) for r in rows if r["python"] == p]
        means.append("%.3f (%d loads)" % (math.exp(sum(logs) / len(logs)), len(logs)))
    return table(["load"] + pythons, lines + [["**geometric mean** (goal 1.02 on 3.12+)"] + means])


def ratio_or(row):
    if row is None or "skip" in row:
        return "-" if row is None else skipped(row)
    return wall(row) + (" WRONG" if row.get("wrong") else "")


def server_rows(results):
    lines = []
    for r in results.get("servers") or []:
        if "skip" in r:
            lines.append([r["goal"], r["python"], skipped(r), "", "", "", "", "", "", ""])
            continue
        lines.append([r["goal"], r["python"], ratio(r["throughput"]), ratio(r["p99"]),
                      "%.0f -> %.0f" % (r["plain_rps"]["median"], r["tool_rps"]["median"]),
                      "%.2f -> %.2f" % (r["plain_p99_ms"]["median"], r["tool_p99_ms"]["median"]),
                      "%s (%.0f -> %.0f us)" % (ratio(r["cpu"]), r["plain_cpu_us"]["median"], r["tool_cpu_us"]["median"]),
                      "%.0f" % (r["records"] / r["checked"]), "%.0f%%" % (100 * r.get("launcher", 0)),
                      (r.get("gave_up") or "-") + (" WRONG: " + r["wrong"][0] if r.get("wrong") else "")])
    return table(["server", "python", "throughput (goal >= 0.98)", "p99 (goal <= 1.05)", "requests/s", "p99 ms", "CPU a request",
                  "records a window", "launcher, of a core", "given up"], lines)


def checks(results):
    """What the stream said of the known growth, for each goal's row."""
    lines = []
    for r in goal_rows(results) + goal_rows(results, True):
        if "skip" in r or "attributed" not in r:
            continue
        seen, grown = r["attributed"]
        lines.append([r["what"], "%d of %d" % (seen, grown), r["records"], "%.2f%%" % (
            100 * lost_share(r)), "%.3g M/s" % ((r["events_s"] or 0) / 1e6),
            "%.2f%%" % (r.get("overhead") or 0), "%.3f" % r["wall"]["median"],
                      "%.0f%%" % (100 * r.get("launcher", 0)), r.get("gave_up") or "-",
                      "; ".join(r["wrong"]) or ("right" if lost_share(r) <= 0.01 else "too much lost to tell")])
    return table(["load", "known growth found, calls", "records", "lost", "hook events", "its own account of its cost",
                  "measured ratio", "launcher, of a core", "given up", "verdict"], lines)


def peers(results):
    rows = results.get("peers") or []
    loads = list(dict.fromkeys(r["load"] for r in rows))
    out = []
    for python in dict.fromkeys(r["python"] for r in rows):
        names = list(dict.fromkeys(r["peer"] for r in rows if r["python"] == python))
        lines = []
        for name in names:
            cells = []
            for load in loads:
                r = find(rows, python=python, load=load, peer=name)
                cells.append("-" if r is None else skipped(r) if "skip" in r
                             else wall(r) + (" WRONG" if r.get("wrong") else ""))
            lines.append([name] + cells)
        out.append("CPython %s:\n\n" % python + table(["tool"] + loads, lines))
    return "\n".join(out)


def attach(results):
    lines = []
    for r in results.get("attach") or []:
        if "skip" in r:
            lines.append([r["python"], r["way"], skipped(r), "", "", ""])
            continue
        lines.append([r["python"], r["way"], ratio(r["gap_ms"], 1), "%.1f" % r["gap_max_ms"], ratio(r["took_ms"], 0),
                      ratio(r["pause_us"], 0) if r.get("pause_us") else "-"])
    return table(["python", "way", "largest gap, ms", "worst of all, ms", "whole visit, ms", "pause it printed, us"], lines)


def memory(results):
    lines = [[r["python"], r["case"], "%.0f" % r["private_kib"], "%.0f" % r["virtual_kib"], r["maps"], r["threads"],
              "%.0f" % r["after_kib"]] for r in results.get("memory") or [] if "skip" not in r]
    return table(["python", "case", "private, KiB", "virtual, KiB", "mappings", "threads", "after detach, KiB"], lines)


def output(results):
    return table(["python", "format", "MB per million records"],
                 [[r["python"], r["format"], "%.0f" % (r["bytes_per_million"] / 1e6)]
                  for r in results.get("output") or [] if "skip" not in r])


def flood(results):
    lines = []
    for r in results.get("flood") or []:
        if "skip" in r:
            continue
        total = r["records"] + r["lost"]
        seconds = sum_wall(r)
        lines.append([r["python"], r["x"], "%.0f k/s" % (total / seconds / 1e3), "%.0f k/s" % (r["records"] / seconds / 1e3),
                      "%.1f%%" % (100.0 * r["lost"] / max(1, total)), ratio(r["wall"], 1)])
    return table(["python", "threads", "calls seen", "records delivered", "lost", "ratio"], lines)


def long_flood(results):
    lines, told = [], []
    for r in results.get("long") or []:
        if "skip" in r:
            continue
        lines += [[r["python"], at, launcher, "%.0f" % added] for at, launcher, added in r["rows"]]
        told.append("%.0f million records delivered, %.2f%% lost." % (r["records"] / 1e6, 100 * r["lost"] / max(1, r["records"] + r["lost"])))
    return table(["python", "seconds", "launcher, KiB resident", "added to the target, KiB"], lines) + "\n" + "\n".join(told)


def sum_wall(row):
    return row.get("watched_s") or 1.0


def sweep(results, name, title, x_name, folder, y_name="time with / without"):
    every = results.get(name) or []
    rows = [r for r in every if "skip" not in r]
    if not rows:
        return "Not measured: %s." % "; ".join(sorted({r["skip"] for r in every} or {"not run"}))
    xs = sorted({r["x"] for r in every}, key=lambda x: (name == "depth" and x == 0, x))
    labels = ["all" if name == "depth" and x == 0 else "{:,}".format(x) for x in xs]
    series, lines = {}, []
    for python in by_version(r["python"] for r in rows):
        mine = [find(every, python=python, x=x) for x in xs]
        series[python] = [(i, r["wall"]["median"], r["wall"]["q1"], r["wall"]["q3"]) for i, r in enumerate(mine)
                          if r and "wall" in r]
        lines.append([python] + [ratio_or(r) for r in mine])
    if folder:
        with open(os.path.join(folder, "benchmarks-%s.svg" % name), "w") as f:
            f.write(plot.lines(title, x_name, y_name, labels, series))
    return table(["python \\ " + x_name] + labels, lines) + "\n![%s](benchmarks-%s.svg)\n" % (title, name)


def shares(r):
    return ", ".join("%s %.1f %%" % (name, 100.0 * n / r["samples"]) for name, n in r["places"] if n > 0.008 * r["samples"])


def profiles(results):
    return "\n".join("* CPython %s, `%s`: %s." % (r["python"], " ".join([r["load"]] + r["options"]), shares(r))
                     for r in results.get("profiles") or [] if r.get("samples"))


def profile_of(results, python, load):
    r = find(results.get("profiles"), python=python, load=load)
    return "The profile: %s." % shares(r) if r and r.get("samples") else ""


def machine(results):
    m = results.get("machine") or {}
    return "%s, %s cores, %s GiB, Linux %s, %s. Agent and launcher as of %s.%s" % (
        m.get("cpu"), m.get("cores"), m.get("memory_gib"), m.get("kernel"), m.get("libc"), results.get("commit"), older(results))


def older(results):
    """Which rows were measured before: a part of the benchmarks may be run alone."""
    found = collections.defaultdict(dict)
    for section, rows in results.items():
        rows = [r for r in rows if isinstance(r, dict) and "what" in r] if isinstance(rows, list) else []
        for commit in {r.get("commit") for r in rows} - {results.get("commit"), None}:
            mine = [r for r in rows if r.get("commit") == commit]
            loads = sorted({str(r.get("goal") or r.get("load") or r["what"]) for r in mine})
            found[commit][section] = "" if len(mine) == len(rows) else " (%s)" % ", ".join(loads)
    return "".join(" Rows as of %s: %s." % (commit, "; ".join(name + which for name, which in sorted(sections.items())))
                   for commit, sections in sorted(found.items()))


def how(results):
    h = results.get("how") or {}
    return "%s pairs of windows of %s s for a goal, one or two elsewhere (the first %s s after an attach left out)" % (
        h.get("pairs"), h.get("seconds"), h.get("settle"))


def versions(results):
    return table(["python", "packages"], [[p, ", ".join(results["versions"][p])] for p in by_version(
        results.get("versions") or ())])


def quick(results):
    """The goals' table, for a terminal."""
    return "\n%s\n\n%s\n%s\nBold meets the goal. Rows of servers, floods and others: quick.json\n" % (
        machine(results), goals(results), bare(results))


def text(results, folder=None):
    with open(os.path.join(HERE, "notes.md")) as f:
        notes = f.read()
    parts = {
        "machine": machine(results), "how": how(results), "versions": versions(results), "goals": goals(results),
        "bare": bare(results), "missed": missed(results), "servers": server_rows(results),
        "checks": checks(results), "peers": peers(results), "attach": attach(results), "memory": memory(results),
        "profiles": profiles(results), "output": output(results), "flood": flood(results),
        "long": long_flood(results),
        "pyperformance": geometric(results),
        "depth": sweep(results, "depth", "Cost by --depth (20 nested calls of 10 us)", "depth", folder),
        "threads": sweep(results, "threads", "Cost by threads (3 calls in 100 us)", "threads", folder),
        "rss": sweep(results, "rss", "Cost by resident size", "MiB added", folder),
        "mappings": sweep(results, "mappings", "Cost by mappings", "mappings added", folder),
    }
    for name, part in parts.items():
        notes = notes.replace("@%s@" % name.upper(), part.rstrip("\n"))
    return notes


def write(results, docs):
    with open(os.path.join(docs, "benchmarks.md"), "w") as f:
        f.write(text(results, docs))
