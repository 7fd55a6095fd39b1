"""Looks at a machine on which a cluster is to be started; runs there before anything is installed.

``python3 - PORT... < host_check.py`` prints a JSON object. It must run under any Python 3, and with
its standard library only.
"""

# ruff: noqa: UP006, UP031, UP035, PTH - Python 3.6, too

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import Dict, List, Sequence

TOOLS = ("make", "gcc", "rsync")
INSTALLED = os.path.expanduser("~/segsweep/.venv/.installed")
INSTALL_GB = 8
"""Space that the environment with CUDA takes."""
TEMPORARY_GB = 1


def version() -> str:
    """Return the version of the Python that Ray will run under."""
    own = os.path.expanduser("~/segsweep/.venv/bin/python")
    if not os.path.exists(own):
        return "%d.%d.%d" % sys.version_info[:3]
    words = [own, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(words, stdout=subprocess.PIPE, check=False).stdout.decode().strip()


def lacks() -> List[str]:
    """Return what is missing here, in a few words each."""
    found = ["%s is missing" % tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.hexversion < 0x30B0000:
        found.append("Python is %d.%d, 3.11 or newer is needed" % sys.version_info[:2])
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        found.append("the Python module venv is missing")
    places = [("/tmp", TEMPORARY_GB)]
    if not os.path.exists(INSTALLED):
        places.append((os.path.expanduser("~"), INSTALL_GB))
    for place, least in places:
        free = shutil.disk_usage(place).free / 1e9
        if free < least:
            found.append("only %.1f GB are free in %s, %d GB are needed" % (free, place, least))
    return found


def processes() -> Dict[int, List[str]]:
    """Return the words of each process of this user, by its number."""
    found = {}
    for name in os.listdir("/proc"):
        try:
            if not name.isdigit() or os.stat("/proc/" + name).st_uid != os.getuid():
                continue
            with open("/proc/%s/cmdline" % name, "rb") as handle:
                found[int(name)] = handle.read().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:  # it has ended
            pass
    return found


def runs(ports: Sequence[str]) -> List[str]:
    """Return what runs here that a start of the cluster would end, or that is in its way."""
    folder = "/tmp/segsweep-%d/" % os.getuid()
    own, found = False, []
    for number, words in sorted(processes().items()):
        program = os.path.basename(words[0])
        if program in ("raylet", "gcs_server"):
            if any(folder in word for word in words):
                own = True
            elif program == "raylet":
                found.append(
                    "another Ray of yours runs there (process %d), and a start would end it: wait "
                    "for it, or end it yourself" % number
                )
        elif "sweep.run" in words and "-m" in words and not {"--watch", "--plan"} & set(words):
            found.append(
                "a sweep runs there (process %d), and a start of Ray would stop it: wait for it, "
                "or stop it yourself (kill -INT %d)" % (number, number)
            )
    for port in () if own else ports:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("", int(port)))
            except OSError:
                found.append(
                    "port %s is in use there, perhaps by another user's Ray: in your file, write "
                    "another number in its place, everywhere" % port
                )
    return found


if __name__ == "__main__":
    print(
        json.dumps(
            {"version": version(), "wrong": lacks() + runs(sys.argv[1:]), "time": time.time()}
        )
    )
