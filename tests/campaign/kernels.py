#!/usr/bin/python3
"""kernels.py [--series 5.10,6.1,6.12] [--deb FILE]... [--budget MINUTES] [--python NAME,...]
[--accel tcg|kvm] [--only PART,...] [--report]: the core of the campaign on other kernels.

Boots each kernel under qemu with this machine's own userland (so that the kernel is all
that differs) and runs guest/main.py in it: which probes are exact there, what the
agent's self-test says, states of the campaign, live tests. BUILD names the folder of the
binary, which must run in the guest: it is linked statically, or against this libc.

Kernels are Debian's: packages given by --deb, or those of --series, which apt fetches into
a folder of its own ($BUILD/campaign/kernels/apt) from the mirror that this machine's apt
uses. They are unpacked, never installed. Rows come over the guest's second serial port
into $BUILD/campaign/kernels/RELEASE.jsonl; the files of all kernels are put together in
$BUILD/campaign/kernels.jsonl, from which the campaign's page gets its section:
$BUILD/campaign/reliability.md, or that of --output (docs/reliability.md).

Needs qemu-system-x86_64, mke2fs, gcc, dpkg-deb; about 1.5 GB of disk; no privileges.
Exits 1 when something failed on one of the kernels, or one did not come to its end."""
import argparse
import glob
import gzip
import itertools
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "live"))

import harness
import report
import setup

# Which release of Debian has which series.
SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
FLAVOUR = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")  # and what they depend on
PACKAGES = ("python3", "libpython3-stdlib", "dash", "bash", "coreutils", "util-linux", "mount", "grep", "sed", "gawk", "findutils", "procps")
PYTHONS = "system,py3.8,py3.12"
IMAGE_ROOM = 400 << 20  # bytes that the guest may write
MEMORY, CPUS = "2G", 2
BOOT = 240              # seconds for the guest to start and to end
SLOW = {"tcg": 8, "kvm": 1}
KEPT_OUT = ("test", "tests", "idlelib", "turtledemo", "ensurepip", "__pycache__", "site-packages", "lib2to3")
COMMAND_LINE = "console=ttyS0 panic=-1 quiet rdinit=/init -- /usr/bin/python3 -B /mempulse/tests/campaign/guest/main.py"


def call(*argv, **options):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, universal_newlines=True, **options).stdout


# --- kernels -------------------------------------------------------------------------------

def mirrors():
    """(of Debian, of its security updates), as this machine's apt has them."""
    found = {}
    for path in glob.glob("/etc/apt/sources.list") + glob.glob("/etc/apt/sources.list.d/*"):
        with open(path) as file:
            for address in re.findall(r"(?:^deb (?:\[.*?\] )?|^URIs: *)(\S+/debian(?:-security)?)/?\s", file.read(), re.M):
                found.setdefault(address.endswith("-security"), address)
    if False not in found:
        sys.exit("apt has no Debian mirror here: fetch the packages and give them as --deb FILE")
    return found[False], found.get(True)


class Apt:
    """An apt that knows other releases and nothing of what is installed."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("lists/partial", "cache/archives/partial", "debs"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        open(os.path.join(folder, "status"), "a").close()
        self.options = [word for key, value in (("Dir::Etc::sourcelist", "sources.list"), ("Dir::Etc::sourceparts", "none"),
                                                ("Dir::State::lists", "lists"), ("Dir::Cache", "cache"), ("Dir::State::status", "status"))
                        for word in ("-o", "%s=%s" % (key, os.path.join(folder, value)))]

    def update(self, suites):
        plain, security = mirrors()
        lines = []
        for suite in suites:
            lines += ["deb %s %s main" % (plain, suite)] + (["deb %s %s-security main" % (security, suite)] if security else [])
        with open(os.path.join(self.folder, "sources.list"), "w") as file:
            file.write("\n".join(lines) + "\n")
        call("apt-get", *self.options, "-qq", "update")

    def image_of(self, series):
        """The newest package of a series."""
        text = call("apt-cache", *self.options, "show", FLAVOUR)
        found = re.findall(r"^Depends: (linux-image-%s\.\d\S*) " % re.escape(series), text, re.M)
        if not found:
            sys.exit("no %s of series %s: fetch one and give it as --deb FILE" % (FLAVOUR, series))
        return found[0]

    def fetch(self, package):
        debs = os.path.join(self.folder, "debs")
        if not glob.glob(os.path.join(debs, package + "_*.deb")):
            call("apt-get", *self.options, "-qq", "download", package, cwd=debs)
        return glob.glob(os.path.join(debs, package + "_*.deb"))[0]


def fetch(folder, series):
    unknown = [name for name in series if name not in SUITES]
    if unknown:
        sys.exit("no Debian release of %s: fetch a package and give it as --deb FILE" % ", ".join(unknown))
    apt = Apt(os.path.join(folder, "apt"))
    apt.update([SUITES[name] for name in series])
    return [apt.fetch(apt.image_of(name)) for name in series]


class Kernel:
    """An unpacked package."""

    def __init__(self, deb, folder):
        self.folder = os.path.join(folder, "unpacked", os.path.basename(deb).partition("_")[0])
        if not os.path.isdir(self.folder):
            os.makedirs(os.path.dirname(self.folder), exist_ok=True)
            call("dpkg-deb", "-x", deb, self.folder)
        self.image = glob.glob(os.path.join(self.folder, "boot", "vmlinuz-*"))[0]
        self.release = os.path.basename(self.image).partition("-")[2]
        self.deb = os.path.basename(deb)

    def module(self, name):
        """The bytes of a module; None where it is built in."""
        for path in glob.glob(os.path.join(self.folder, "**", "modules", "**", name + ".ko*"), recursive=True):
            opener = lzma.open if path.endswith(".xz") else open
            with opener(path, "rb") as file:
                return file.read()
        return None

    def modules(self):
        """[(name, bytes)], each after those that it depends on."""
        done, order = set(), []

        def visit(name):
            if name in done:
                return
            done.add(name)
            content = self.module(name)
            if content is None:
                return
            for needed in re.search(rb"\0depends=([^\0]*)\0", b"\0" + content).group(1).decode().split(","):
                visit(needed)
            order.append((name, content))

        for name in MODULES:
            visit(name)
        return order


def cpio(entries):
    """A "newc" archive of (name, mode, content)."""
    out = []
    for number, (name, mode, content) in enumerate(list(entries) + [("TRAILER!!!", 0, b"")], 1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
        out.append(header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4))
    return b"".join(out)


def initramfs(kernel, init, path):
    with open(init, "rb") as file:
        entries = [("init", 0o100755, file.read()), ("modules", 0o40755, b"")]
    entries += [("modules/%02d-%s.ko" % (i, name), 0o100644, content) for i, (name, content) in enumerate(kernel.modules())]
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(cpio(entries))


# --- the userland --------------------------------------------------------------------------

def closure(packages):
    """Installed packages that these need, themselves included."""
    text = call("apt-cache", "depends", "--recurse", "--installed", "--no-recommends", "--no-suggests", "--no-conflicts",
                "--no-breaks", "--no-replaces", "--no-enhances", *packages)
    return sorted({line for line in text.splitlines() if re.match(r"[a-z0-9]", line)})


def copy(source, stage):
    """One file or link, its folders made as they are here (links among them included)."""
    out = stage + source
    if os.path.lexists(out) or not os.path.lexists(source):
        return
    make_folder(os.path.dirname(source), stage)
    if os.path.isdir(source):
        make_folder(source, stage)
    elif os.path.islink(source):
        os.symlink(os.readlink(source), out)
    elif os.access(source, os.R_OK):
        shutil.copy2(source, out)


def make_folder(folder, stage):
    if os.path.lexists(stage + folder):
        return
    make_folder(os.path.dirname(folder), stage)
    if os.path.islink(folder):  # /bin, /lib
        os.symlink(os.readlink(folder), stage + folder)
        make_folder(os.path.realpath(folder), stage)
    else:
        os.mkdir(stage + folder)


def copy_packages(stage):
    for package in closure(PACKAGES):
        done = subprocess.run(["dpkg", "-L", package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True)
        for path in done.stdout.splitlines():
            if path.startswith("/") and path != "/." and not re.match(r"/usr/share/(doc|man|locale|info|lintian|bug)/", path):
                copy(path, stage)
    for pattern in ("/etc/passwd", "/etc/group", "/etc/ld.so.c*", "/etc/ld.so.conf.d/*", "/etc/alternatives/*", "/usr/bin/awk"):
        for path in glob.glob(pattern):
            copy(path, stage)


def libraries(path):
    """What the dynamic linker loads for it."""
    done = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True)
    return re.findall(r"(/\S+) \(0x", done.stdout)


def copy_libraries(paths, stage):
    for library in sorted({found for path in paths for found in libraries(path)}):
        copy(library, stage)
        copy(os.path.realpath(library), stage)


def copy_python(interpreter, stage):
    """A Python of one's own, by its prefix, without what no target imports."""
    prefix = call(interpreter.path, "-c", "import sys; print(sys.prefix)").strip()
    elves = []
    for folder, names, files in os.walk(prefix):
        names[:] = [name for name in names if name not in KEPT_OUT]
        for name in files + [name for name in names if os.path.islink(os.path.join(folder, name))]:
            path = os.path.join(folder, name)
            if not name.endswith(".a"):
                copy(path, stage)
                elves += [path] if ".so" in name else []
    copy_libraries([os.path.realpath(interpreter.path)] + elves, stage)


def copy_ours(stage, binary, helpers, probes):
    place = stage + "/mempulse"
    for name in ("live", "campaign"):
        shutil.copytree(os.path.join(ROOT, "tests", name), os.path.join(place, "tests", name), ignore=shutil.ignore_patterns("__pycache__"))
    os.makedirs(os.path.join(place, "build", "campaign"))
    shutil.copy(binary, os.path.join(place, "build", "mempulse"))
    shutil.copy(probes, os.path.join(place, "build", "probes"))
    for library in glob.glob(os.path.join(helpers, "*.so")):
        shutil.copy(library, os.path.join(place, "build", "campaign"))


def make_image(path, stage):
    size = int(call("du", "-sxB1", stage).split()[0]) * 11 // 10 + IMAGE_ROOM
    if os.path.exists(path):
        os.unlink(path)
    call("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum_seed,^orphan_file", "-E", "root_owner=0:0",
         "-d", stage, path, "%dk" % (size >> 10))


def make_userland(folder, build, interpreters):
    """The image, from this machine as it is now."""
    stage, helpers = os.path.join(folder, "stage"), os.path.join(build, "campaign")
    shutil.rmtree(stage, ignore_errors=True)
    os.makedirs(stage)
    setup.compile_helpers(helpers)
    probes = compile_static(folder, "probes", "-pthread")
    for name in ("tmp", "proc", "sys", "dev", "run", "root", "var", "var/tmp"):
        os.mkdir(os.path.join(stage, name))
    copy_packages(stage)
    for interpreter in interpreters:
        if interpreter.name == "system":
            copy_libraries([os.path.realpath(interpreter.path)], stage)
        else:
            copy_python(interpreter, stage)
    copy_ours(stage, os.path.join(build, "mempulse"), helpers, probes)
    make_image(os.path.join(folder, "root.ext4"), stage)
    shutil.rmtree(stage)


def compile_static(folder, name, *options):
    out = os.path.join(folder, name)
    call(os.environ.get("CC", "gcc"), "-O2", "-Wall", "-static", *options, "-o", out, os.path.join(HERE, "guest", name + ".c"))
    return out


# --- a run ---------------------------------------------------------------------------------

class Guest:
    """One kernel, booted. Used in a `with`: qemu never outlives it."""

    def __init__(self, kernel, folder, options):
        self.kernel, self.budget = kernel, 60 * options.budget
        self.rows_path = os.path.join(folder, kernel.release + ".rows")
        self.console = os.path.join(folder, kernel.release + ".console")
        ramdisk = os.path.join(folder, kernel.release + ".initramfs")
        initramfs(kernel, os.path.join(folder, "init"), ramdisk)
        words = "budget=%d slow=%s only=%s" % (self.budget, SLOW[options.accel], options.only or "all")
        self.argv = ["qemu-system-x86_64", "-accel", options.accel + (",thread=multi" if options.accel == "tcg" else ""),
                     "-cpu", "host" if options.accel == "kvm" else "max", "-smp", str(CPUS), "-m", MEMORY, "-nographic", "-no-reboot",
                     "-nic", "none", "-kernel", kernel.image, "-initrd", ramdisk, "-append", COMMAND_LINE + " " + words,
                     "-drive", "file=%s,format=raw,if=virtio,snapshot=on" % os.path.join(folder, "root.ext4"),
                     "-serial", "file:" + self.console, "-serial", "file:" + self.rows_path, "-monitor", "none"]

    def __enter__(self):
        for path in (self.rows_path, self.console):
            open(path, "w").close()
        self.process = harness.spawn(self.argv, stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        harness.reap(self.process)

    def rows(self):
        """Each as it comes, up to the guest's end or the time's."""
        deadline = time.monotonic() + self.budget + BOOT * 2
        with open(self.rows_path, "rb") as file:
            rest = b""
            while True:
                ended = self.process.poll() is not None
                chunk = file.read()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    try:
                        yield json.loads(line.decode("utf-8", "replace"))
                    except ValueError:
                        print("%s: no row: %r" % (self.kernel.release, line), file=sys.stderr)
                if ended and not chunk:
                    return
                if time.monotonic() > deadline:
                    return
                time.sleep(0.2)

    def said(self):
        with open(self.console, errors="replace") as file:
            return file.read()[-3000:]


def head_of(kernel, options):
    return {"t": "kernel", "kernel": kernel.release, "package": kernel.deb, "accel": options.accel, "date": time.strftime("%Y-%m-%d"),
            "emulator": call("qemu-system-x86_64", "--version").splitlines()[0]}


def run(kernel, folder, options):
    """Runs one kernel, its rows into its file; what went wrong."""
    row, bad = None, []
    with Guest(kernel, folder, options) as guest, open(os.path.join(folder, kernel.release + ".jsonl"), "w") as file:
        for row in itertools.chain([head_of(kernel, options)], guest.rows()):
            text = json.dumps(dict(row, kernel=kernel.release), sort_keys=True)
            file.write(text + "\n")
            file.flush()
            if options.verbose:
                print(text, flush=True)
            if row.get("failure") or row.get("harms"):
                bad.append(text)
        if row["t"] != "done":
            bad.append("%s did not come to its end; its console ends with\n%s" % (kernel.release, guest.said()))
    return bad


def collect(folder, result):
    """All kernels' files in one."""
    with open(result, "w") as out:
        for path in sorted(glob.glob(os.path.join(folder, "*.jsonl"))):
            with open(path) as file:
                out.write(file.read())


def leave(number, frame):
    harness.kill_all()
    os._exit(128 + number)


def default_accel():
    """kvm only where the processor itself can do it."""
    with open("/proc/cpuinfo") as file:
        able = re.search(r"^flags.* (vmx|svm)( |$)", file.read(), re.M)
    return "kvm" if able and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", default="5.10,6.1,6.12")
    parser.add_argument("--deb", action="append", default=[], help="a kernel's package; then --series is not looked at")
    parser.add_argument("--budget", type=float, default=30, help="minutes for each kernel")
    parser.add_argument("--python", default=PYTHONS, help="interpreters, as the live tests name them")
    parser.add_argument("--accel", choices=sorted(SLOW), default=default_accel())
    parser.add_argument("--only", default="", help="parts of guest/main.py beside the probes: selftest, states, tests, or a state's or a test's name")
    parser.add_argument("--same-image", action="store_true", help="do not build the userland's image anew")
    parser.add_argument("--report", action="store_true", help="only write the section of the page")
    parser.add_argument("--output", default="", help="the page")
    parser.add_argument("-v", dest="verbose", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    build = os.path.join(ROOT, os.environ.get("BUILD", "build"))
    helpers = os.path.join(build, "campaign")
    folder, result = os.path.join(helpers, "kernels"), os.path.join(helpers, "kernels.jsonl")
    os.makedirs(folder, exist_ok=True)
    bad = []
    if not options.report:
        for tool in ("qemu-system-x86_64", "mke2fs", "dpkg-deb"):
            if not shutil.which(tool):
                sys.exit("%s is missing" % tool)
        debs = options.deb or fetch(folder, options.series.split(","))
        compile_static(folder, "init")
        if not options.same_image:
            make_userland(folder, build, [i for i in harness.find_interpreters()[0] if i.name in options.python.split(",")])
        for kernel in [Kernel(deb, folder) for deb in debs]:
            complaints = run(kernel, folder, options)
            print("%s: %d complaints" % (kernel.release, len(complaints)), flush=True)
            bad += complaints
        collect(folder, result)
    report.write_kernels(report.read_rows(result), options.output or os.path.join(helpers, report.PAGE))
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
