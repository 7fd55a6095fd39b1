"""Notices that Ray itself has died, for which Ray Tune's driver would wait for ever."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.runfolder import CONTINUE
from trainables.cli import FAILED

EVERY_SECONDS = 2.0
"""Time between two looks. Ray itself notices a dead node after some 15 seconds, and then may end
this process without a word."""
HEAD_SECONDS = 30.0
"""Time for which the head may not answer. After 60 seconds Ray ends this process."""
END_SECONDS = 30.0
"""Time that this process has for ending in order."""
ANSWER_SECONDS = 5.0
_LOST = signal.SIGUSR2


class Watch:
    """Whether Ray's processes that the driver needs are there.

    Parameters
    ----------
    raylet : str
        Socket of the node's own process on this machine, its raylet.
    head : str
        Address of the cluster's head (host:port).
    head_seconds : float
        Time for which the head may not answer.
    """

    def __init__(self, raylet: str, head: str, head_seconds: float = HEAD_SECONDS) -> None:
        self.raylet, self.head, self.head_seconds = raylet, head, head_seconds
        self._answered = time.monotonic()
        self._refused = 0

    def look(self) -> str:
        """Return what has died, in a line for the user; empty while all is there."""
        # Twice, so that one connection that came to nothing is no death
        self._refused = 0 if _listens(self.raylet) else self._refused + 1
        if self._refused >= 2:
            return "Ray's process on this machine (the raylet) has died"
        if _answers(self.head):
            self._answered = time.monotonic()
        elif time.monotonic() - self._answered >= self.head_seconds:
            return f"the head of the Ray cluster ({self.head}) does not answer any more"
        return ""


def _listens(path: str) -> bool:
    """Whether a process listens at a socket of this machine, even if it is busy or stopped."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(ANSWER_SECONDS)
        try:
            one.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


class RayDied(RuntimeError):
    """Ray has died on this machine or on the head; the message says which."""


@contextmanager
def watched(say: Callable[[str], object]) -> Iterator[None]:
    """Watch the Ray that this process has joined, in a thread.

    When it dies, the main thread is interrupted, wherever it waits. If the block has not ended
    30 seconds later, the process ends with code 1.

    Parameters
    ----------
    say : callable
        Takes a line for the user, if the process has to be ended.

    Raises
    ------
    RayDied
    """
    import ray

    node, reasons, ended = ray._private.worker._global_node, list[str](), threading.Event()
    if node is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = Watch(str(Path(node.raylet_socket_name)), node.gcs_address)
    main = threading.main_thread().ident
    assert main is not None

    def look() -> None:
        while not ended.wait(EVERY_SECONDS):
            if not (reason := watch.look()):
                continue
            reasons.append(reason)
            signal.pthread_kill(main, _LOST)
            if not ended.wait(END_SECONDS):
                say(f"{reason}; {CONTINUE}")
                os._exit(FAILED)
            return

    def interrupt(*_: object) -> None:
        if not ended.is_set():
            raise KeyboardInterrupt

    before = signal.signal(_LOST, interrupt)
    thread = threading.Thread(target=look, name="watch", daemon=True)
    thread.start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        ended.set()
        thread.join(2 * ANSWER_SECONDS)
        # what fails because Ray has died fails before this is noticed
        if not reasons and isinstance(error, ray.exceptions.RayError):
            reasons += filter(None, [watch.look() or watch.look()])
        if reasons:
            raise RayDied(reasons[0]) from error
        raise
    finally:
        ended.set()
        thread.join(2 * ANSWER_SECONDS)
        signal.signal(_LOST, before)
