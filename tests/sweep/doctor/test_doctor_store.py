"""`sweep.doctor` on data and a run folder in an object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.doctor.findings import Finding
from sweep.doctor.folders import look_at_data, look_at_out, look_at_weights
from tests.object_store import BUCKET, client
from tests.object_store import node as node
from tests.object_store import out as out
from tests.object_store import server as server
from tests.sweep.command_line import make_data
from trainables.records import objects
from trainables.records.objects import place


def said(findings: list[Finding]) -> dict[str, str]:
    return {one.state: one.detail for one in findings}


def test_data_in_a_store_are_checked_like_those_on_a_disk(
    server: str, node: Callable[[str], None], tmp_path: Path
) -> None:
    data = make_data(tmp_path / "data")
    for path in data.rglob("*.tif"):
        key = f"doctor/{path.relative_to(data).as_posix()}"
        client(server).upload_file(str(path), BUCKET, key)
    objects.fetched_folder.cache_clear()
    found, dataset = look_at_data("s3://lab/doctor")
    assert dataset is not None
    here, near = look_at_data(str(data))
    assert near is not None
    assert dataset.fingerprint == near.fingerprint
    assert said(found)["ok"] == said(here)["ok"].replace(str(data), "s3://lab/doctor")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("s3://nobody/data", "there is no such bucket"),
        ("s3://lab/nothing", "no such folder"),
        ("gs://lab/data", "this kind of address is not supported"),
    ],
)
def test_data_that_are_not_there_are_a_problem(
    address: str, reason: str, node: Callable[[str], None], tmp_path: Path
) -> None:
    objects.fetched_folder.cache_clear()
    (only,), dataset = look_at_data(address)
    assert dataset is None
    assert only.state == "problem"
    assert address in only.detail
    assert reason in only.detail
    assert str(tmp_path) not in only.detail


def test_a_run_folder_in_a_store(server: str, out: str) -> None:
    (found,) = [one for one in look_at_out(place(out)) if one.what == "out"]
    assert (found.state, found.detail) == ("ok", f"{out}: will be created; can be reached")
    (weights,) = look_at_weights(place(out))
    assert f"none in {out}/weights yet" in weights.detail
    s3 = client(server)
    for name in ("resnet18.pt", "resnet18.pt.json"):
        s3.put_object(
            Bucket=BUCKET, Key=f"{out.removeprefix('s3://lab/')}/weights/{name}", Body=b"x"
        )
    (weights,) = look_at_weights(place(out))
    assert f"in {out}/weights: resnet18;" in weights.detail
