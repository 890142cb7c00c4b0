"""What is here: interpreters, virtual environments with the peers, the machine."""
import glob
import os
import platform
import re
import shutil
import subprocess

import bounded
import measure

NEEDED = ("Django", "numpy", "gunicorn", "pyperformance")
PIP_SECONDS = 240
PEERS = ("mempulse==0.6.4", "psutil", "memory_profiler", "memray", "scalene", "py-spy", "pyinstrument")


def interpreters(wanted=None, oldest=8):
    """{"3.8": path, ..., "3.11-system": path}: those of CPython 3.8 (or older) to 3.13 that are here."""
    candidates = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")))
    candidates += filter(None, (shutil.which("python3.%d" % n) for n in range(oldest, 14)))
    candidates += ["/usr/bin/python3"]
    found = {}
    for path in candidates:
        version = version_of(path)
        if not version or not (3, oldest) <= version[:2] <= (3, 13):
            continue
        name = "%d.%d" % version[:2]
        if path.startswith("/usr/bin/"):
            name += "-system" if name in found else ""
        found.setdefault(name, path)
    found = {name: path for name, path in found.items() if not wanted or name in wanted}
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]))


def version_of(path):
    try:
        text = bounded.run([path, "-c", "import sys; print(sys.implementation.name, *sys.version_info[:3])"], 20,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.split()
    except (OSError, bounded.Skip):
        return None
    return tuple(map(int, text[1:])) if text[:1] == ["cpython"] else None


def venv(folder, name, python, peers=False):
    """The interpreter of a virtual environment with what the loads need; what can't be
    installed is missed by the load that wants it, by name."""
    version = "%d.%d.%d" % version_of(python) + ("-system" if name.endswith("-system") else "")
    place = os.path.join(folder, "venv-" + version)
    program = os.path.join(place, "bin", "python")
    try:
        if not os.path.exists(program) and quietly([python, "-m", "venv", place]):
            return python
        install(place, program, NEEDED + (PEERS if peers else ()))
    except bounded.Skip as late:
        print("   %s: %s" % (name, late), flush=True)
    return program


def quietly(argv):
    """Its exit code."""
    return bounded.run(argv, PIP_SECONDS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def install(place, program, wanted):
    """All at once; where one is not to be had, one by one. Each is tried once."""
    marker = os.path.join(place, "installed")
    have = open(marker).read().split() if os.path.exists(marker) else []
    missing = [package for package in wanted if package not in have]
    pip = [program, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary"]
    if missing and quietly(pip + missing):
        for package in missing:
            if quietly(pip + [package]):
                print("   %s can't be installed for this interpreter" % package, flush=True)
    with open(marker, "a") as f:
        f.writelines(package + "\n" for package in missing)


def beside(python, program, must=True):
    path = os.path.join(os.path.dirname(python), program)
    if os.path.exists(path):
        return path
    if must:
        raise measure.Skip("%s is not installed" % program)
    return None


def scalene_prefix(python, folder):
    """How this scalene is told to run a script and keep quiet."""
    beside(python, "scalene")
    text = bounded.run([python, "-m", "scalene", "run", "--help"], 60, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True).stdout
    out = os.path.join(folder, "scalene.json")
    if "--outfile" in text or "-o" in text:
        return ["-m", "scalene", "run", "-o", out]
    return ["-m", "scalene", "--cli", "--outfile", out]


def packages(python, names):
    text = bounded.run([python, "-m", "pip", "list", "--disable-pip-version-check", "--format", "freeze"], 60,
                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    have = dict(line.lower().split("==") for line in text.split() if "==" in line)
    wanted = [name.split("==")[0].lower() for name in names]
    return ["%s %s" % (name, have.get(name) or have[name.replace("_", "-")]) for name in wanted
            if name in have or name.replace("_", "-") in have]


def python_314():
    """(its loader, what comes before a script): a root with CPython 3.14 in $BENCH_ROOT, started
    from here by the root's own loader."""
    root = os.environ.get("BENCH_ROOT", "")
    program, loader = os.path.join(root, "usr/bin/python3.14"), os.path.join(root, "lib64/ld-linux-x86-64.so.2")
    if not root or not os.path.exists(program):
        raise measure.Skip("no root with CPython 3.14 (debootstrap forky DIR, then BENCH_ROOT=DIR)")
    library = os.path.join(root, "usr/lib/x86_64-linux-gnu")
    return os.path.realpath(loader), ["--library-path", library, program, "-E", "-S"]


def free_gib():
    with open("/proc/meminfo") as f:
        return int(re.search(r"MemAvailable: +(\d+)", f.read()).group(1)) / (1 << 20)


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*: (.*)", f.read())
    with open("/proc/meminfo") as f:
        total = int(re.search(r"MemTotal: +(\d+)", f.read()).group(1)) / (1 << 20)
    return {"cpu": model.group(1) if model else platform.machine(), "cores": os.cpu_count(),
            "memory_gib": round(total), "kernel": platform.release().split("-")[0], "libc": " ".join(platform.libc_ver())}


def commit():
    done = bounded.run(["git", "log", "-1", "--format=%h %cd", "--date=short", "--", "payload", "src", "include"], 20,
                       cwd=os.path.join(measure.HERE, "..", ".."), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip()
