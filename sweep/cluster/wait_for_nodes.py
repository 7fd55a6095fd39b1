"""Waits on the head until all machines have joined; runs there, in the project's environment.

``python - ADDRESS FOLDER HOST... < wait_for_nodes.py`` prints what happens, and ends with 1 if a
machine does not join.
"""

import os
import re
import socket
import sys
import time
from pathlib import Path

SECONDS = 1800.0
"""The first start installs several GB on each machine."""
TRIES = 2
FAILED = "update-failed"
CHATTER = re.compile(
    r"^(\d{4}-|\s|$|Shared connection|Warning: |Traceback|.*Exception: |\x1b\[39m)"
)


def failures(log: str) -> list[str]:
    """Return the reason of each failure to set up a machine, from the log of Ray's launcher.

    The reason is the last line before it that the launcher did not write itself.
    """
    found, last = list[str](), ""
    for line in log.splitlines():
        if FAILED in line:
            found.append(last or "the log does not say why")
            last = ""
        elif not CHATTER.match(line):
            last = line.strip()
    return found


def main() -> int:
    """Wait; return the exit code."""
    address, folder, *hosts = sys.argv[1:]
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path("~/.segsweep/token").expanduser())
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    log = Path(folder, "session_latest", "logs", "monitor.out")
    said, joined, end = 0, set[str](), time.monotonic() + SECONDS
    while True:
        alive = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        if alive - joined:
            joined |= alive
            print(f"{len(alive)} of {len(hosts)} machines have joined", flush=True)
        if len(alive) >= len(hosts):
            return 0
        reasons = failures(log.read_text(errors="replace")) if log.exists() else []
        for reason in reasons[said:]:
            print(f"a machine could not be set up: {reason}", flush=True)
        said = len(reasons)
        if said >= TRIES * (len(hosts) - len(alive)) or time.monotonic() > end:
            missing = [host for host in hosts if socket.gethostbyname(host) not in alive]
            print(f"not joined: {', '.join(missing)}; on the head, {log} says more", flush=True)
            return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
