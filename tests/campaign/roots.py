#!/usr/bin/python3
"""roots.py [FOLDER] [SUITE ...]: other Debian releases with their own C library and
Python, by debootstrap, for the campaign's states `other_root` (make campaign-roots; some
90 seconds and 400 MB each). FOLDER is $CAMPAIGN_ROOTS, /tmp/roots where that is not set;
the mirror is the one that apt uses. What is there already is left alone."""
import glob
import os
import re
import shutil
import subprocess
import sys

SUITES = ("bullseye", "trixie", "forky")
SCRIPTS = "/usr/share/debootstrap/scripts"
PATTERN = r"^(?:URIs: |deb (?:\[[^]]*\] )?)(https?://\S+/debian/?)(?:\s|$)"


def mirror():
    for path in ["/etc/apt/sources.list"] + sorted(glob.glob("/etc/apt/sources.list.d/*")):
        try:
            with open(path) as file:
                found = re.search(PATTERN, file.read(), re.M)
        except OSError:
            continue
        if found:
            return found.group(1)
    return None


def script(suite):
    """An older debootstrap does not know a newer suite: sid's script will do."""
    return suite if os.path.exists(os.path.join(SCRIPTS, suite)) else "sid"


def make(folder, suite, source):
    root = os.path.join(folder, suite)
    if os.path.exists(os.path.join(root, "usr/bin/python3")):
        return True
    shutil.rmtree(root, ignore_errors=True)
    done = subprocess.run(["debootstrap", "--variant=minbase", "--include=python3", suite, root, source,
                           os.path.join(SCRIPTS, script(suite))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        print("%s: %s" % (suite, done.stdout.decode("utf-8", "replace")[-600:]), file=sys.stderr)
    return done.returncode == 0


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CAMPAIGN_ROOTS", "/tmp/roots")
    source = mirror()
    if os.geteuid() or not source or not shutil.which("debootstrap"):
        sys.exit("roots.py needs root, debootstrap (apt-get install debootstrap) and a Debian mirror in apt's sources")
    os.makedirs(folder, exist_ok=True)
    results = [make(folder, suite, source) for suite in sys.argv[2:] or SUITES]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
