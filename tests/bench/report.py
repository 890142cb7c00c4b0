"""docs/benchmarks.md and its plots, from results.json. What a human has to say about
the numbers is in notes.md, and is put in as it is."""
import os

import plot

HERE = os.path.dirname(os.path.abspath(__file__))

# load, what it is, goal by interpreter: (3.8-3.10, 3.11, 3.12+), unit
GOALS = (
    ("django", "Django template render, depth 3", (1.03, 1.08, 1.02), ""),
    ("examples", "the original's examples (numpy, uuids, lists), depth 1, `--lines`", (1.03, 1.03, 1.03), ""),
    ("fib", "fib below the traced depth", (1.12, 1.6, 1.05), ""),
    ("methods", "small methods below the traced depth", (1.12, 1.6, 1.05), ""),
    ("calls", "every call recorded (`--depth 0`), per call", (1.5, 1.5, 1.5), " us"),
    ("8 GiB", "a target of 8 GiB", (1.02, 1.02, 1.02), ""),
    ("20,000 mappings", "a target of 20,000 mappings", (1.02, 1.02, 1.02), ""),
    ("idle", "injected, nothing in scope", (1.0, 1.0, 1.0), ""),
    ("after", "after detach", (1.0, 1.0, 1.0), ""),
)
CALLS_IN_A_UNIT = 101


def goal_of(goals, python):
    minor = int(python.split("-")[0].split(".")[1])
    return goals[0] if minor <= 10 else goals[1] if minor == 11 else goals[2]


def table(head, rows):
    out = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(out + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]) + "\n"


def ratio(s, digits=2):
    return "%.*f" % (digits, s["median"]) + (" [%.*f-%.*f]" % (digits, s["q1"], digits, s["q3"]) if s["n"] > 1 else "")


def per_call_us(row):
    return (row["tool_us"]["median"] - row["plain_us"]["median"]) / CALLS_IN_A_UNIT


def goal_cell(row, name, goal):
    if row is None:
        return "-"
    if "skip" in row:
        return "not measured"
    if name == "calls":
        value = per_call_us(row)
        shown = "%.2f us" % value
    else:
        value = row["wall"]["median"]
        shown = ratio(row["wall"]) + " (cpu %.2f)" % row["cpu"]["median"]
    slack = 0.02 if goal == 1.0 else 0.005
    shown = "**%s**" % shown if value <= goal + slack else shown
    return shown + (" WRONG" if row.get("wrong") else "")


def find(rows, **wanted):
    for row in rows or ():
        if all(row.get(k) == v for k, v in wanted.items()):
            return row
    return None


def goals(results):
    rows = (results.get("goals") or []) + (results.get("big") or [])
    pythons = list(dict.fromkeys(r["python"] for r in rows))
    lines = []
    for name, what, by_version, unit in GOALS:
        limits = sorted(set(by_version))
        goal = " / ".join("%g%s" % (g, unit) for g in (by_version if len(limits) > 1 else limits))
        lines.append([what, goal] + [goal_cell(find(rows, goal=name, python=p), name, goal_of(by_version, p))
                                     for p in pythons])
    return table(["load", "goal (3.8-3.10 / 3.11 / 3.12+)"] + pythons, lines)


def server_rows(results):
    lines = []
    for r in results.get("servers") or []:
        if "skip" in r:
            lines.append([r["goal"], r["python"], "not measured: " + r["skip"].splitlines()[0], "", "", "", "", ""])
            continue
        lines.append([r["goal"], r["python"], ratio(r["throughput"]), ratio(r["p99"]),
                      "%.0f -> %.0f" % (r["plain_rps"]["median"], r["tool_rps"]["median"]),
                      "%.2f -> %.2f" % (r["plain_p99_ms"]["median"], r["tool_p99_ms"]["median"]),
                      "%.0f" % (r["records"] / r["checked"]), "%.0f%%" % (100 * r.get("launcher", 0))])
    return table(["server", "python", "throughput (goal >= 0.98)", "p99 (goal <= 1.05)", "requests/s", "p99 ms",
                  "records a window", "launcher, of a core"], lines)


def checks(results):
    """What the stream said of the known growth, for each goal's row."""
    lines = []
    for r in (results.get("goals") or []) + (results.get("big") or []):
        if "skip" in r or "attributed" not in r:
            continue
        seen, grown = r["attributed"]
        lines.append([r["what"], "%d of %d" % (seen, grown), r["records"], "%.2f%%" % (
            100.0 * r["lost"] / max(1, r["lost"] + r["records"])), "%.3g M/s" % ((r["events_s"] or 0) / 1e6),
            "%.2f%%" % (r["own_cost"] or 0), "%.2f" % r["wall"]["median"],
                      "%.0f%%" % (100 * r.get("launcher", 0)), "; ".join(r["wrong"]) or "right"])
    return table(["load", "known growth found, calls", "records", "lost", "hook events", "its own account of its cost",
                  "measured ratio", "launcher, of a core", "verdict"], lines)


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
                cells.append("-" if r is None else "not measured: " + r["skip"].splitlines()[0][:90] if "skip" in r
                             else ratio(r["wall"]) + (" WRONG" if r.get("wrong") else ""))
            lines.append([name] + cells)
        out.append("CPython %s:\n\n" % python + table(["tool"] + loads, lines))
    return "\n".join(out)


def attach(results):
    lines = []
    for r in results.get("attach") or []:
        if "skip" in r:
            lines.append([r["python"], r["way"], "not measured: " + r["skip"].splitlines()[0][:90], "", "", ""])
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


def sum_wall(row):
    return row.get("watched_s") or 1.0


def sweep(results, name, title, x_name, folder, y_name="time with / without"):
    rows = [r for r in results.get(name) or [] if "skip" not in r]
    if not rows:
        return ""
    xs = list(dict.fromkeys(r["x"] for r in rows))
    labels = ["all" if name == "depth" and x == 0 else "{:,}".format(x) for x in xs]
    series, lines = {}, []
    for python in dict.fromkeys(r["python"] for r in rows):
        mine = [find(rows, python=python, x=x) for x in xs]
        series[python] = [(i, r["wall"]["median"], r["wall"]["q1"], r["wall"]["q3"]) for i, r in enumerate(mine) if r]
        lines.append([python] + [ratio(r["wall"]) + (" WRONG" if r.get("wrong") else "") if r else "-" for r in mine])
    if folder:
        with open(os.path.join(folder, "bench-%s.svg" % name), "w") as f:
            f.write(plot.lines(title, x_name, y_name, labels, series))
    return table(["python \\ " + x_name] + labels, lines) + "\n![%s](bench-%s.svg)\n" % (title, name)


def profiles(results):
    out = []
    for r in results.get("profiles") or []:
        if "skip" in r or not r["samples"]:
            continue
        shares = ["%s %.1f %%" % (name, 100.0 * n / r["samples"]) for name, n in r["places"]
                  if n > 0.008 * r["samples"]]
        out.append("* CPython %s, `%s`: %s." % (r["python"], " ".join([r["load"]] + r["options"]), ", ".join(shares)))
    return "\n".join(out)


def machine(results):
    m = results.get("machine") or {}
    return "%s, %s cores, %s GiB, Linux %s, %s. Agent and launcher as of %s." % (
        m.get("cpu"), m.get("cores"), m.get("memory_gib"), m.get("kernel"), m.get("libc"), results.get("commit"))


def text(results, folder=None):
    with open(os.path.join(HERE, "notes.md")) as f:
        notes = f.read()
    parts = {
        "machine": machine(results), "goals": goals(results), "servers": server_rows(results),
        "checks": checks(results), "peers": peers(results), "attach": attach(results), "memory": memory(results),
        "profiles": profiles(results), "output": output(results), "flood": flood(results),
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
