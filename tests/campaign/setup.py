"""setup.py FOLDER [--packages]: what the campaign's targets need beside Python. Compiles
the helper libraries; with --packages also fetches allocators (apt-get download, unpacked,
not installed) and two venvs with other people's packages (pip). What can't be had is left
out: the states that need it are skipped by name."""
import glob
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "live"))

import harness

SOURCES = os.path.join(HERE, "targets")
SECONDS = 300
ALLOCATORS = {"libjemalloc.so.2": "libjemalloc2", "libtcmalloc_minimal.so.4": "libtcmalloc-minimal4"}
PACKAGES = ("uvloop", "gevent", "coverage", "debugpy", "numpy", "setuptools", "gunicorn", "celery")
# The interpreters that get the packages, the first that is here of each row: one that is hooked
# by sys.monitoring, and one with an eval-frame thunk.
VENVS = (("venv", ((3, 12), (3, 13))), ("venv-%d.%d", ((3, 10), (3, 11))))


def call(*argv, **options):
    """True when it succeeded."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, **options)
    except (OSError, subprocess.SubprocessError) as error:
        print("campaign: %s: %s" % (argv[0], error), file=sys.stderr)
        return False
    if done.returncode:
        print("campaign: %s failed: %s" % (" ".join(argv[:4]), done.stdout.decode("utf-8", "replace")[-400:]), file=sys.stderr)
    return done.returncode == 0


def compile_helpers(folder):
    for home, name in ((SOURCES, "helper"), (SOURCES, "small"), (harness.TARGETS, "woken")):
        source, out = os.path.join(home, name + ".c"), os.path.join(folder, name + ".so")
        if not os.path.exists(out) or os.path.getmtime(out) < os.path.getmtime(source):
            call(os.environ.get("CC", "gcc"), "-O2", "-g", "-shared", "-fPIC", "-o", out, source, "-lpthread", "-ldl")


def compile_framehook(folder, interpreter):
    """With this interpreter's own headers, where it has them."""
    out = os.path.join(folder, "framehook-%d.%d" % interpreter.version, "framehook.so")
    source = os.path.join(SOURCES, "framehook.c")
    if os.path.exists(out) and os.path.getmtime(out) >= os.path.getmtime(source):
        return
    include = subprocess.check_output([interpreter.path, "-c", "import sysconfig; print(sysconfig.get_paths()['include'])"]).decode().strip()
    if not os.path.exists(os.path.join(include, "Python.h")):
        return
    os.makedirs(os.path.dirname(out), exist_ok=True)
    call(os.environ.get("CC", "gcc"), "-O2", "-shared", "-fPIC", "-I", include, "-I", os.path.join(include, "internal"),
         "-o", out, source)


def fetch_allocators(folder):
    for library, package in ALLOCATORS.items():
        if os.path.exists(os.path.join(folder, library)):
            continue
        if not call("apt-get", "download", package, cwd=folder):
            continue
        for deb in glob.glob(os.path.join(folder, package + "_*.deb")):
            unpacked = os.path.join(folder, package)
            call("dpkg-deb", "-x", deb, unpacked)
            for found in glob.glob(os.path.join(unpacked, "usr", "lib", "*", library)):
                os.symlink(found, os.path.join(folder, library))


def make_venvs(folder, interpreters):
    by_version = {i.version: i for i in interpreters}
    for name, versions in VENVS:
        bases = [by_version[version] for version in versions if version in by_version]
        if bases:
            make_venv(os.path.join(folder, name % bases[0].version if "%" in name else name), bases[0])


def make_venv(venv, base):
    """Each package is tried once; one that can't be had is left alone from then on."""
    if not os.path.exists(venv) and not call(base.path, "-m", "venv", venv):
        return
    for package in PACKAGES:
        tried = os.path.join(venv, "tried-" + package)
        if not os.path.exists(tried):
            call(os.path.join(venv, "bin", "python3"), "-m", "pip", "install", "-q", "--only-binary", ":all:", package)
            open(tried, "w").close()


def prepare(folder, packages):
    os.makedirs(folder, exist_ok=True)
    interpreters = harness.find_interpreters()[0]
    compile_helpers(folder)
    for interpreter in interpreters:
        compile_framehook(folder, interpreter)
    if packages:
        fetch_allocators(folder)
        make_venvs(folder, interpreters)


if __name__ == "__main__":
    prepare(sys.argv[1], "--packages" in sys.argv)
