"""What reaches the screen and what the log file, from a process of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.screen import quiet_screen

ROOT = Path(__file__).parents[2]

NOISE = """
import ctypes, logging, os, subprocess, sys, warnings
from pathlib import Path
from sweep.screen import quiet_screen

libc = ctypes.CDLL(None)
print("before")
libc.printf(b"C before\\n")
try:
    with quiet_screen(Path(sys.argv[1]) / "new" / "sweep.log") as screen:
        print("python out")
        print("python err", file=sys.stderr)
        libc.printf(b"C out\\n")
        os.write(2, b"descriptor\\n")
        subprocess.run(["sh", "-c", "echo child; echo child err >&2"], check=True)
        logging.getLogger("x").warning("logged")
        warnings.warn("warned")
        screen.print("[bold]for the user[/bold]", 1.5)
        print("plain error", file=screen.errors)
        if len(sys.argv) > 2:
            raise ValueError("broken")
except ValueError as error:
    print("caught", error)
print("after")
print("error after", file=sys.stderr)
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NOISE, *map(str, words)], capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize("broken", [False, True])
def test_only_our_words_reach_the_screen(tmp_path: Path, broken: bool) -> None:
    done = run(tmp_path, *(["broken"] if broken else []))
    assert done.stdout.splitlines() == [
        "before",
        "C before",
        "for the user 1.5",
        *(["caught broken"] if broken else []),
        "after",
    ]
    assert done.stderr.splitlines() == ["plain error", "error after"]
    log = (tmp_path / "new" / "sweep.log").read_text()
    for text in (
        "python out",
        "python err",
        "C out",
        "descriptor",
        "child",
        "child err",
        "logged",
        "warned",
    ):
        assert text in log
    assert "for the user" not in log


def test_log_is_appended_to(tmp_path: Path) -> None:
    run(tmp_path)
    once = (tmp_path / "new" / "sweep.log").read_text()
    run(tmp_path)
    assert (tmp_path / "new" / "sweep.log").read_text().count("python out") == 2
    assert (tmp_path / "new" / "sweep.log").read_text().startswith(once)


def test_terminal_is_recognised_with_its_size(tmp_path: Path) -> None:
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 117, 0, 0))
    code = (
        "import sys; from pathlib import Path; from sweep.screen import quiet_screen\n"
        "with quiet_screen(Path(sys.argv[1]) / 'log') as screen:\n"
        "    screen.print(screen.is_terminal, screen.width, screen.height)\n"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        check=True,
        env={**clean, "TERM": "xterm"},
    )
    text = os.read(ours, 1000).decode()
    os.close(ours)
    os.close(theirs)
    assert text.split() == ["True", "117", "31"]


def test_unwritable_log_leaves_the_screen(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    opened = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="file"), quiet_screen(tmp_path / "file" / "log"):
        raise AssertionError
    assert set(os.listdir("/proc/self/fd")) == opened


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    opened = set(os.listdir("/proc/self/fd"))
    with quiet_screen(tmp_path / "log"):
        pass
    assert set(os.listdir("/proc/self/fd")) == opened


def test_closed_pipe_does_not_hide_the_end(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sweep.screen import quiet_screen\n"
        "try:\n"
        "    with quiet_screen(Path(sys.argv[1]) / 'log') as screen:\n"
        "        sys.stdin.read()\n"
        "        screen.file.write('unread')\n"
        "except BrokenPipeError:\n"
        "    pass\n"
        "print('reached', file=sys.stderr)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    assert "reached" in process.stderr.read()
    process.stderr.close()
    process.wait()


CLOSED = """
import signal, sys
from pathlib import Path
from sweep.screen import quiet_screen

signal.signal(signal.SIGHUP, signal.SIG_IGN)
with quiet_screen(Path(sys.argv[1]) / "sweep.log") as screen:
    print("begun", flush=True)
    while not Path(sys.argv[1], "closed").exists():
        pass
    screen.print("shown to nobody")
    print("and neither is this", file=screen.errors, flush=True)
    print("to the log", flush=True)
print("nor this", flush=True)
Path(sys.argv[1], "ended").touch()
"""


def test_a_terminal_that_is_closed_stops_nothing(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED, str(tmp_path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
    )
    os.close(theirs)
    log = tmp_path / "sweep.log"
    while process.poll() is None and not (log.exists() and log.read_text()):
        pass
    os.close(ours)
    (tmp_path / "closed").touch()
    assert process.wait(timeout=100) == 0
    assert (tmp_path / "ended").exists()
    assert log.read_text() == "begun\nto the log\n"
