"""A run folder in an object store: whole files, records, the lock, and a run from there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from analysis.run import main as analyse
from analysis.segment.cli import main as segment
from search_spaces import BuiltinData, SearchSpace, grid
from sweep import lease
from sweep.dataset import data_folder
from sweep.ledger import Ledger
from sweep.plan import read_plan
from sweep.request import RequestError, make_request
from sweep.run import main
from sweep.runfolder import choose_out, lock
from tests.object_store import BUCKET, asked, client, keys_of, store_environment
from tests.object_store import node as node
from tests.object_store import out as out
from tests.object_store import server as server
from tests.sweep.command_line import QUICK, SPACE, TINY_TUNE, kill, make_data, run, start, wait_for
from trainables.config import TrialConfig
from trainables.records import objects
from trainables.records.files import exists, fetched, write_json, write_text
from trainables.records.objects import place
from trainables.records.store import StoreError

CONFIG = TrialConfig()


def test_no_note_of_concurrent_writers_is_lost(out: str) -> None:
    ledger = Ledger(place(out))
    ledger.write("t", CONFIG, "running")

    def note(writer: int) -> None:
        for number in range(4):
            Ledger(place(out)).note("t", f"{writer} {number}")

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(note, range(5)))
    record = ledger.read_one("t")
    assert record is not None
    assert sorted(record["notes"]) == sorted(f"{w} {n}" for w in range(5) for n in range(4))


def test_a_record_that_says_done_is_kept(out: str, node: Callable[[str], None]) -> None:
    Ledger(place(out)).write("t", CONFIG, "done", metrics={"epochs": 3})
    Ledger(place(out)).write("u", CONFIG, "running")
    node("second")
    Ledger(place(out)).write("t", CONFIG, "failed", error="x")
    found = Ledger(place(out)).read()
    assert {i: record["status"] for i, record in found.items()} == {"t": "done", "u": "running"}
    objects.remove([place(out) / "ledger" / "u.json"])
    node("first")
    assert list(Ledger(place(out)).read()) == ["t"]


def test_a_record_that_was_removed_in_the_store_is_gone(out: str, server: str) -> None:
    """Also if a process was killed before it recorded which version it had put there."""
    Ledger(place(out)).write("t", CONFIG, "done", metrics={})
    Ledger(place(out)).write("u", CONFIG, "running")
    shutil.rmtree(objects.cache_home() / "etags")
    key = f"{out.removeprefix('s3://').partition('/')[2]}/ledger/t.json"
    client(server).delete_object(Bucket=BUCKET, Key=key)
    assert list(Ledger(place(out)).read()) == ["u"]


SMALL = SearchSpace(
    trials=grid(encoder="resnet18"),
    builtin_data=BuiltinData(sequences=3, frames=2, height=64, width=64),
)


@pytest.mark.parametrize("machine", ["first", "second"])
@pytest.mark.parametrize("sent", [0, 9])
def test_built_in_data_that_were_sent_in_part_are_completed(
    machine: str, sent: int, out: str, node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that was killed while it sent them had another data set on the next machine, or
    none for its other nodes.
    """
    request, put, count = make_request("small", SMALL, [], None), objects.put, []

    def cut_short(path: Path) -> None:
        if "data/" in str(path):
            count.append(path)
            if len(count) > sent:
                raise KeyboardInterrupt
        put(path)

    monkeypatch.setattr(objects, "put", cut_short)
    monkeypatch.setattr(objects, "AT_ONCE", 1)
    with pytest.raises(KeyboardInterrupt), data_folder(request, None, place(out), keep=True):
        pass
    monkeypatch.setattr(objects, "put", put)
    node(machine)
    with data_folder(request, None, place(out), keep=True) as root:
        here = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    node("third")
    assert {*objects.listing(place(out) / "data")} == here
    assert len([name for name in here if name.startswith("masks/")]) == 6
    assert "synthetic.json" in here


def test_only_one_of_many_gets_the_lock(out: str) -> None:
    got, refused, done = list[int](), list[str](), threading.Barrier(6)

    def take(number: int) -> None:
        try:
            with lock(place(out), lambda text: None):
                got.append(number)
                done.wait(60)
        except RequestError as error:
            refused.append(str(error))
            done.wait(60)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, range(6)))
    assert len(got) == 1
    assert len(refused) == 5
    assert f"process {os.getpid()} on {os.uname().nodename}" in refused[0]
    assert out in refused[0]
    assert keys_of(os.environ["AWS_ENDPOINT_URL"], f"runs/{out.rpartition('/')[2]}/") == []


_HOLD = """
import sys, time
from pathlib import Path
from sweep.runfolder import lock
from trainables.records.objects import place
with lock(place(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def holding(out: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _HOLD, out]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_lock_of_a_killed_process_is_taken_over_at_once(out: str) -> None:
    process, said = holding(out), list[str]()
    try:
        with (
            pytest.raises(RequestError, match=f"process {process.pid} on"),
            lock(place(out), said.append),
        ):
            pass
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    with lock(place(out), said.append):
        pass
    assert said == [
        f"note: the lock of {out} was left by process {process.pid} on {os.uname().nodename}, "
        "which no longer runs: taken over"
    ]


def test_the_lock_of_another_machine_is_taken_over_once_it_is_old(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"host": "gpu7", "boot": "another", "pid": 4, "started": "5", "token": "t"}
    write_json(place(out) / ".lock", there)
    with (
        pytest.raises(RequestError, match=r"process 4 on gpu7.*taken over in \d+ s"),
        lock(place(out), print),
    ):
        pass
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    time.sleep(3)
    with lock(place(out), lambda text: None):
        found = lease.holder(place(out) / ".lock")
        assert found is not None
        assert found.pid == os.getpid()


def test_who_has_lost_the_lock_is_interrupted(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped for longer than a lock lasts, and another one took it."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    said = list[str]()
    other = {"host": "gpu7", "boot": "another", "pid": 4, "started": "5", "token": "t"}

    def be_overtaken() -> None:
        with lock(place(out), said.append):
            write_json(place(out) / ".lock", other)
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        be_overtaken()
    assert said == [
        f"error: process 4 on gpu7 has taken {out} while this process did not run: this one stops"
    ]
    assert json.loads(fetched(place(out) / ".lock").read_text()) == other


@pytest.mark.parametrize("content", ["{}", "not JSON"])
def test_who_has_lost_the_lock_is_interrupted_whoever_has_it(
    content: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that renews the lock ended with an error, and the process went on."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    said, peek = list[str](), objects.peek

    def once(path: Path) -> Any:
        found = peek(path)
        monkeypatch.setattr(objects, "peek", away)
        return found

    def away(path: Path) -> Any:
        raise StoreError(errno.EIO, "no response")

    def be_overtaken() -> None:
        with lock(place(out), said.append):
            monkeypatch.setattr(objects, "peek", once)
            write_text(place(out) / ".lock", content)
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        be_overtaken()
    assert said == [
        f"error: another process has taken {out} while this process did not run: this one stops"
    ]


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--out", "s3://nobody/run"], {}, "there is no such bucket"),
        (["--out", "s3://lab"], {}, "name a folder in a bucket"),
        (["--out", "gs://lab/run"], {}, "this kind of address is not supported"),
        (["--out", "s3://lab/run"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "no response at"),
        (["--out", "s3://lab/run", "--data", "s3://nobody/data"], {}, "there is no such bucket"),
        (["--out", "s3://lab/run", "--data", "s3://lab/nothing"], {}, "no such folder"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_within_seconds(
    words: list[str],
    environment: dict[str, str],
    said: str,
    node: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    objects.fetched_folder.cache_clear()
    began = time.monotonic()
    one = ["--set", "architecture=Unet"]
    assert main([str(SPACE), *words, *QUICK, *one]) == 2
    assert time.monotonic() - began < 10
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_analyses_of_a_store_that_cannot_be_used_are_refused(
    out: str, node: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyse(["s3://nobody/run"]) == 2
    image, cells = tmp_path / "a.tif", tmp_path / "cells"
    tifffile.imwrite(image, np.zeros((40, 40), np.uint16))
    assert segment(["--model", "s3://nobody/run", str(image), "--out", str(cells)]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("error: s3://nobody/run: object store at http://127.0.0.1:")
        assert "there is no such bucket" in line
    assert not cells.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "--model", "runs/demo", "a.tif", "--out", "s3://lab/cells"],
        ["segment", "--model", "runs/demo", "s3://lab/images", "--out", "cells"],
        ["analyse", "runs/demo", "--unlabelled", "s3://lab/film"],
        ["analyse", "runs/demo", "--labels", "me=s3://lab/mine"],
    ],
)
def test_what_must_be_on_a_disk_is_refused_with_what_to_do(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = {"segment": segment, "analyse": analyse}[words[0]]
    with pytest.raises(SystemExit) as end:
        command(words[1:])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: argument ")
    assert "must be a folder on a disk, not in an object store; copy it with aws s3 sync" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_credentials_it_is_refused(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(RequestError, match="no credentials"):
        choose_out(out, "demo", None)


def test_a_bucket_folder_with_other_things_is_no_run(out: str, node: Callable[[str], None]) -> None:
    assert read_plan(place(out)) is None
    write_text(place(out) / "data" / "images" / "a.tif", "x")  # of a sweep that was killed
    assert read_plan(place(out)) is None
    write_text(place(out) / "thesis.docx", "x")
    node("second")
    with pytest.raises(RequestError, match=r"not a run \(it contains thesis.docx"):
        read_plan(place(out))


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def upload(server: str, folder: Path, name: str) -> str:
    """Put a folder into the bucket; returns its address."""
    for path in folder.rglob("*.tif"):
        key = f"{name}/{path.relative_to(folder).as_posix()}"
        client(server).upload_file(str(path), BUCKET, key)
    return f"s3://{BUCKET}/{name}"


def copied(server: str, out: str, to: Path) -> Path:
    """Copy a run out of the store, as ``aws s3 sync`` does."""
    prefix = out.removeprefix(f"s3://{BUCKET}/") + "/"
    for name in keys_of(server, prefix):
        client(server).download_file(BUCKET, prefix + name, str(_made(to / name)))
    return to


@pytest.mark.slow
def test_a_sweep_is_killed_resumed_and_analysed_in_a_store(
    server: str, out: str, tmp_path: Path
) -> None:
    """Every step is on another machine, as far as its files are concerned."""
    data = make_data(tmp_path / "data", images=8)
    where = upload(server, data, "discs")
    words: list[Any] = [SPACE, "--data", where, "--out", out, *QUICK, *TINY_TUNE]
    words += ["--set", "architecture=Unet,FPN", "--set", "epochs=8"]
    words += ["--set", "checkpoint_seconds=0", "--seeds", "2"]
    prefix = out.removeprefix(f"s3://{BUCKET}/") + "/"

    driver = start(*words, cwd=tmp_path, **store_environment(server, tmp_path / "a"))
    wait_for(lambda: any("resume-00003" in name for name in keys_of(server, prefix)), driver)
    second = store_environment(server, tmp_path / "b")
    code, _, err = run(*words, "--resume", cwd=tmp_path, **second)
    assert code == 2, err
    assert f"{out}: a sweep is already running there (process {driver.pid} on" in err
    kill(driver)
    shutil.rmtree(tmp_path / "a")
    code, text, err = run(*words, "--resume", cwd=tmp_path, **second)
    assert code == 0, text + err
    assert f"all results are in {out}" in text
    code, text, err = run(*words, cwd=tmp_path, **store_environment(server, tmp_path / "c"))
    assert code == 0, text + err
    assert "nothing to do" in text

    got = copied(server, out, tmp_path / "got")
    records = [json.loads(path.read_text()) for path in (got / "ledger").glob("*.json")]
    assert [record["status"] for record in records] == ["done"] * 4
    assert any(len(record["attempts"]) == 2 for record in records)
    plan = json.loads((got / "plan.json").read_text())
    assert plan["data"]["path"] == where
    assert plan["folder"]["path"] == out
    left = [path.name for path in (got / "checkpoints").rglob("*") if path.is_file()]
    assert sorted(set(left)) == ["checkpoint.json", "result.json", "weights.pt"]
    hidden = [name for name in keys_of(server, prefix) if name.startswith((".", "tune"))]
    assert hidden == [".driver.json"]
    watching = start("--watch", out, cwd=tmp_path, **store_environment(server, tmp_path / "e"))
    text, err = watching.communicate(timeout=100)
    assert watching.returncode == 0, text + err
    assert f"all results are in {out}" in text

    local = tmp_path / "local"
    plain = [*words[:2], data, "--out", local, *words[5:]]
    code, text, err = run(*plain, cwd=tmp_path)
    assert code == 0, text + err
    columns = ("trial_id", "val_dataset_iou", "test_dataset_iou", "best_epoch")
    assert _columns(got, columns) == _columns(local, columns)

    analysis = [sys.executable, "-m", "analysis.run", out, "--budget", "5", "--resamples", "99"]
    environment = {**os.environ, **store_environment(server, tmp_path / "d")}
    done = subprocess.run(
        analysis, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report: {out}/report/index.html" in done.stdout.replace("\n", "")
    report = set(keys_of(server, f"{prefix}report/"))
    assert {"index.html", "objects.parquet", "table1.csv", "methods.csv"} <= report
    page = client(server).get_object(Bucket=BUCKET, Key=f"{prefix}report/index.html")["Body"].read()
    assert str(tmp_path).encode() not in page


@pytest.mark.slow
def test_two_nodes_share_nothing_but_the_store(
    server: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is lost: its trial continues on the other one, from the state in the store."""
    where = upload(server, make_data(tmp_path / "data", images=8), "shared")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    def become(name: str) -> None:
        for key, value in store_environment(server, tmp_path / name).items():
            monkeypatch.setenv(key, value)

    become("one")  # Ray's nodes inherit the environment
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        become("two")
        second = cluster.add_node(num_cpus=1)
        words: list[Any] = [SPACE, "--data", where, "--out", out, *QUICK, *TINY_TUNE]
        words += ["--set", "architecture=Unet", "--set", "epochs=8", "--seeds", "4"]
        words += ["--set", "checkpoint_seconds=0", "--address", cluster.address]
        driver = start(
            *words,
            cwd=tmp_path,
            RAY_AUTH_MODE="disabled",
            **store_environment(server, tmp_path / "driver"),
        )

        def second_has_saved() -> bool:
            become("test")
            found = Ledger(place(out)).read().values()
            ids = [r["trial_id"] for r in found if r["status"] == "running" and r["attempts"]]
            ids = [
                i
                for i in ids
                if (r := Ledger(place(out)).read_one(i))
                and r["attempts"][-1]["node"] == second.node_id
            ]
            return any(exists(place(out) / "checkpoints" / i / "resume.json") for i in ids)

        wait_for(second_has_saved, driver)
        cluster.remove_node(second, allow_graceful=False)
        text, err = driver.communicate(timeout=500)
        assert driver.returncode == 0, text + err
        records = list(Ledger(place(out)).read().values())
        assert [record["status"] for record in records] == ["done"] * 4
        assert {a["node"] for r in records for a in r["attempts"]} == {
            cluster.head_node.node_id,
            second.node_id,
        }
        assert any(len(record["attempts"]) == 2 for record in records)
        image = asked("GET /lab/shared/images/i3.tif")
        assert len(image) == 3  # by the driver and by each node, once
        for node in ("one", "two", "driver"):
            assert (tmp_path / node / "s3" / BUCKET / "shared" / "images" / "i3.tif").is_file()
    finally:
        cluster.shutdown()


def _columns(run: Path, names: tuple[str, ...]) -> list[list[str]]:
    import csv

    with open(run / "leaderboard.csv", newline="") as handle:
        return [[row[name] for name in names] for row in csv.DictReader(handle)]
