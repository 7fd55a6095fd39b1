"""A Ray of a sweep's own, on a machine with neighbours."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.sweep.command_line import environment

ASK = """
import time, urllib.error, urllib.request
import psutil
from sweep.cluster.connect import ray_session

with ray_session(None, 0):
    wanted, end = {"ray::RuntimeEnvAgent", "ray::DashboardAgent"}, time.monotonic() + 60
    while wanted and time.monotonic() < end:
        time.sleep(0.5)
        for process in psutil.Process().children(recursive=True):
            if process.name() in wanted and process.net_connections("tcp"):
                wanted.remove(process.name())
    time.sleep(2)
    for process in psutil.Process().children(recursive=True):
        for one in process.net_connections("tcp"):
            if one.status != psutil.CONN_LISTEN:
                continue
            for page in ("metrics", "api/jobs/", "logs/"):
                host = one.laddr.ip if "." in one.laddr.ip else "127.0.0.1"
                host = "127.0.0.1" if host == "0.0.0.0" else host
                try:
                    urllib.request.urlopen(f"http://{host}:{one.laddr.port}/{page}", timeout=2)
                    print("ANSWERED", one.laddr, page)
                except urllib.error.HTTPError as error:
                    print(one.laddr, page, error.code)
                except Exception as error:
                    print(one.laddr, type(error).__name__)
                    break
"""


@pytest.mark.slow
def test_nothing_answers_without_the_token() -> None:
    words = [sys.executable, "-c", ASK]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    assert " 401" in done.stdout, "the agent of the node asks for a token"
    assert "ANSWERED" not in done.stdout, done.stdout
