"""Files in an object store: whole or not at all, the same for all nodes, and waited for."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.object_store import BUCKET, asked, keys_of, serving
from tests.object_store import node as node
from tests.object_store import out as out
from tests.object_store import server as server
from trainables.config import EpochRecord, RunOptions
from trainables.errors import Paused, Superseded
from trainables.records import objects, patience, stops, store
from trainables.records.attempts import Attempt
from trainables.records.files import fetched, names, send, whole_file, write_text, write_with
from trainables.records.objects import address_of, place
from trainables.records.resumable import Form, Progress
from trainables.records.store import StoreError


def test_an_address_and_the_place_of_its_copy_belong_together(out: str) -> None:
    assert address_of(place(out)) == out
    assert address_of(place(out) / "a b" / "ü.json") == f"{out}/a b/ü.json"
    assert place(f"{out}/") == place(out)
    assert address_of(Path("/runs/s3/demo")) == "/runs/s3/demo"
    assert place("runs/demo") == Path("runs/demo")
    assert objects.readable(f"error: {place(out)}/plan.json") == f"error: {out}/plan.json"
    for wrong in ("gs://bucket/run", "s3://bucket", "s3:///run", "s3://bucket/../run", "s3://b//r"):
        with pytest.raises(ValueError, match=re.escape(wrong)):
            place(wrong)


def test_what_one_node_writes_another_reads(out: str, node: Callable[[str], None]) -> None:
    write_text(place(out) / "plan.json", "one")
    node("second")
    path = fetched(place(out) / "plan.json")
    assert path.read_text() == "one"
    before = path.stat().st_mtime_ns
    assert fetched(path).stat().st_mtime_ns == before  # unchanged: not sent again
    path.write_text("changed here, by whatever")
    assert fetched(path).read_text() == "one"
    node("first")
    write_text(place(out) / "plan.json", "two")
    write_text(place(out) / "a" / "b.csv", "x")
    assert names(place(out)) == ["a", "plan.json"]
    objects.remove([place(out) / "a" / "b.csv"])
    node("second")
    assert fetched(place(out) / "plan.json").read_text() == "two"
    assert names(place(out)) == ["plan.json"]
    objects.remove([place(out) / "plan.json"])
    assert not fetched(place(out) / "plan.json").exists()


@pytest.mark.parametrize("way", ["write", "update", "fetch"])
def test_an_older_version_that_another_process_puts_there_is_noticed(
    out: str, node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = place(out) / "a.json"
    write_text(path, "one")
    if way == "fetch":
        node("second")
        write_text(place(out) / "a.json", "two")
        node("first")
    remember = objects.remember

    def late(*arguments: Any) -> None:
        path.write_text("one")  # its answer from the store was the older one
        remember(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(objects, "remember", late)
        if way == "write":
            write_text(path, "two")
        elif way == "update":
            objects.update(path, lambda _: b"two")
        else:
            fetched(path)
    assert path.read_text() == "one"
    assert fetched(path).read_text() == "two"


def test_a_file_is_sent_whole_or_not_at_all(out: str, node: Callable[[str], None]) -> None:
    path = place(out) / "leaderboard.csv"
    write_text(path, "whole")

    def refuse() -> None:
        raise Superseded("another attempt")

    def stop(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_with(path, stop)
    with pytest.raises(Superseded):
        write_with(path, lambda temporary: temporary.write_text("half"), refuse)
    node("second")
    assert fetched(place(out) / "leaderboard.csv").read_text() == "whole"
    assert names(place(out)) == ["leaderboard.csv"]


def test_large_files_are_sent_in_parts(
    out: str, node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "LARGE", 2**20)
    path, content = place(out) / "weights.pt", os.urandom(9 * 2**20)
    with whole_file(_made(path)) as temporary:
        temporary.write_bytes(content)
    known = objects.known(path)
    assert known is not None
    assert "-" in known  # of several parts
    node("second")
    assert fetched(place(out) / "weights.pt").read_bytes() == content


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_folder_is_fetched_once_on_each_node(out: str, node: Callable[[str], None]) -> None:
    for number in range(30):
        path = _made(place(out) / "data" / "images" / f"{number}.tif")
        path.write_bytes(bytes([number]) * 1000)
    send(place(out) / "data")
    node("second")
    objects.fetched_folder.cache_clear()
    folder = place(f"{out}/data")
    with ThreadPoolExecutor(4) as pool:  # as workers of one node
        found = list(pool.map(objects.fetched_folder, [f"{out}/data"] * 4))
    assert found == [folder] * 4
    images = f"GET .*{re.escape(out.rpartition('/')[2])}/data/images/"
    assert len(asked(images)) == 30
    files = {path: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    assert len(files) == 30
    assert (folder / "images" / "7.tif").read_bytes() == bytes([7]) * 1000
    objects.fetched_folder.cache_clear()  # another worker, later
    objects.fetched_folder(f"{out}/data")
    assert len(asked(images)) == 30
    assert files == {path: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}


def test_an_earlier_attempt_on_another_node_stops(out: str, node: Callable[[str], None]) -> None:
    first = Attempt.begin(place(out) / "checkpoints" / "t")
    first.write_json(first.folder / "resume.json", {"epoch": 1})
    node("second")
    second = Attempt.begin(place(out) / "checkpoints" / "t")
    node("first")
    with pytest.raises(Superseded):
        first.write_json(first.folder / "resume.json", {"epoch": 2})
    first.end()
    node("second")
    second.check()
    assert json.loads(fetched(second.folder / "resume.json").read_text()) == {"epoch": 1}


def _progress(out: str, said: list[str]) -> Progress[str]:
    form = Form(".ckpt", ".pt", lambda path, text: path.write_text(text), Path.read_text)
    options = RunOptions(checkpoint_seconds=0, stop_file=f"{out}/.stop-1")
    return Progress(Attempt.begin(place(out) / "checkpoints" / "t"), form, options, said.append)


def _train(progress: Progress[str], epochs: range) -> None:
    def train(epoch: int) -> None:
        progress.add(EpochRecord(epoch, 0.1, 0.1, 0.1 * epoch, 0.1, 1.0), lambda: f"best {epoch}")
        progress.save_if_due(lambda path: path.write_text(f"state {epoch}"))

    for epoch in epochs:
        train(epoch)


def test_a_trial_continues_on_another_node(out: str, node: Callable[[str], None]) -> None:
    said = list[str]()
    _train(_progress(out, said), range(1, 4))
    node("second")
    progress = _progress(out, said)
    state = next(progress.states())
    assert (state.epoch, state.path.read_text(), said) == (3, "state 3", [])
    assert progress.best_weights() == "best 3"
    objects.remove([place(out) / "checkpoints" / "t" / "resume-00003.ckpt"])
    node("third")
    progress = _progress(out, said)
    state = next(progress.states())
    assert (state.epoch, state.path.read_text()) == (2, "state 2")
    assert "resume-00003.ckpt is missing" in said[0]
    _train(progress, range(3, 5))
    there = keys_of(os.environ["AWS_ENDPOINT_URL"], f"{out.removeprefix(f's3://{BUCKET}/')}/")
    assert sorted(there) == [
        f"checkpoints/t/{name}"
        for name in (
            "attempt.json",
            "best-00003.pt",
            "best-00004.pt",
            "resume-00003.ckpt",
            "resume-00004.ckpt",
            "resume.json",
        )
    ]


def test_a_trial_saves_and_stops_where_the_store_asks_for_it(
    out: str, node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stops, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(stops, "COST", 0.0)
    progress = _progress(out, [])
    _train(progress, range(1, 2))
    progress.stop_if_asked()
    node("driver")
    stops.ask(place(out) / ".stop-1", stops.EPOCH)
    node("first")
    assert not progress.looks.at_step()
    _train(progress, range(2, 3))
    with pytest.raises(Paused):
        progress.stop_if_asked()


def test_a_store_that_is_away_asks_no_trial_to_stop(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = _progress(out, [])
    with serving() as address:
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 1.0)
    assert not progress.looks.at_epoch()


def test_a_store_is_asked_every_few_seconds_whether_to_stop_at_once(
    out: str, node: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, before = [0.0], len(asked(r"GET \S+/\.stop-1"))
    monkeypatch.setattr(stops, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = _progress(out, [])
    for _ in range(100):
        assert not progress.looks.at_step()
        assert not progress.looks.at_epoch()
    assert len(asked(r"GET \S+/\.stop-1")) == before + 1
    node("driver")
    stops.ask(place(out) / ".stop-1", stops.STEP)
    node("first")
    now[0] = stops.ASK_SECONDS
    assert progress.looks.at_step()
    assert progress.looks.at_epoch()
    assert len(asked(r"GET \S+/\.stop-1")) == before + 2


def test_a_trial_that_is_asked_to_stop_does_not_wait_for_a_disk(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(place(out) / ".stop-1", "")
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(patience, "MOST_SECONDS", 0.5)
    tried = list[int]()

    def work() -> None:
        tried.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        patience.Patience(print, f"{out}/.stop-1")(place(out) / "a", work)
    assert len(tried) == 1


def test_a_store_that_is_away_is_waited_for(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as address:
        port = int(address.rpartition(":")[2])
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    said, writing = list[str](), ThreadPoolExecutor(1)
    ended = store.tell_to(said.append)
    try:
        done = writing.submit(write_text, place(out) / "plan.json", "x")
        time.sleep(1.5)
        assert not done.done()
        with serving(port):
            done.result(60)
        monkeypatch.setattr(store, "PATIENCE_SECONDS", 1.0)
        with pytest.raises(StoreError, match="no response at http") as error:
            write_text(place(out) / "plan.json", "y")
        assert error.value.filename == f"{out}/plan.json"
    finally:
        ended()
        writing.shutdown()
    assert [line.partition(":")[0] for line in said[:2]] == [
        "object store at http",
        "the object store responds again",
    ]
