"""Storage that is unmounted while a sweep writes, and mounted again: real disks, real sweeps."""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.ledger import Ledger
from tests.sweep.command_line import QUICK, SPACE, TINY_TUNE, make_data, rows, run, start, wait_for
from trainables.config import EpochRecord, RunOptions, TrialConfig
from trainables.records import mounted, patience
from trainables.records.attempts import Attempt
from trainables.records.files import write_text
from trainables.records.resumable import Form, Progress


class Disk:
    """A disk of its own in a file, which can be taken away and brought back."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.image, self.folder = image, folder

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.folder], check=True)

    def unmount(self) -> None:
        """Take it away although files are open there."""
        subprocess.run(["umount", "-l", self.folder], check=True)

    def left(self) -> list[str]:
        """Return what lies where the disk was."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "image", tmp_path / "disk")
    made.folder.mkdir()
    image = str(made.image)
    words = [["truncate", "-s", "300M", image], ["mkfs.ext4", "-q", "-F", image]]
    try:
        for command in words:
            subprocess.run(command, check=True, capture_output=True)
        made.mount()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk may be mounted here")
    try:
        yield made
    finally:
        while made.folder.is_mount():
            made.unmount()


@pytest.fixture
def out(disk: Disk) -> Iterator[Path]:
    """A run folder that is known to have a plan: the root of the disk, which stays as a folder."""
    (disk.folder / "plan.json").write_text("{}")
    mounted.expect(disk.folder)
    yield disk.folder
    mounted.forget(disk.folder)


def test_nothing_is_written_where_the_disk_was(disk: Disk, out: Path) -> None:
    ledger = Ledger(out)
    ledger.write("a", TrialConfig(), "running")
    attempt = Attempt.begin(out / "checkpoints" / "a")
    disk.unmount()
    for write in (
        lambda: write_text(out / "leaderboard.csv", ""),
        lambda: ledger.write("a", TrialConfig(), "failed"),
        lambda: ledger.read_one("a"),
        lambda: Attempt.begin(out / "checkpoints" / "b"),
        lambda: attempt.write_json(out / "checkpoints" / "a" / "resume.json", {}),
    ):
        with pytest.raises(OSError, match="Storage is away") as caught:
            write()
        assert caught.value.errno == errno.ESTALE
    attempt.check()  # it may still be the last one
    assert disk.left() == []
    disk.mount()
    assert (ledger.read_one("a") or {})["status"] == "running"


def test_a_save_waits_for_a_disk_that_is_taken_away_in_its_middle(
    disk: Disk, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.2)
    attempt, said = Attempt.begin(out / "checkpoints" / "a"), list[str]()
    form = Form[bytes](".ckpt", ".pt", Path.write_bytes, Path.read_bytes)

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            assert disk.left() == []
            disk.mount()

    progress = Progress(attempt, form, RunOptions(checkpoint_seconds=0), say)
    progress.add(EpochRecord(1, 1.0, 1.0, 0.1, 0.1, 1.0), lambda: b"best")

    def write(path: Path) -> None:
        with open(path, "wb") as handle:
            handle.write(b"half")
            handle.flush()
            if not said:
                disk.unmount()
            handle.write(b"whole")

    progress.save_if_due(write)
    assert "cannot be written (Storage is away: there is no plan.json" in said[0]
    assert "was written after" in said[1]
    found = next(Progress(attempt, form, RunOptions(), print).states())
    assert found.path.read_bytes() == b"halfwhole"


@pytest.mark.slow
@pytest.mark.parametrize("below", ["", "run"])
def test_a_sweep_waits_for_a_disk_that_is_taken_away(
    below: str, disk: Disk, tmp_path: Path
) -> None:
    """The run folder is the disk itself, or lies on it."""
    out = disk.folder / below
    if not below:
        (out / "lost+found").rmdir()
    words: tuple[object, ...] = (
        SPACE,
        "--data",
        make_data(tmp_path / "data"),
        "--out",
        out,
        *QUICK,
        *TINY_TUNE,
    )
    words += ("--set", "architecture=Unet,FPN", "--set", "epochs=10")
    words += ("--set", "checkpoint_seconds=0.001")
    process = start(*words, cwd=tmp_path)
    # a save is under way whenever its temporary file exists
    wait_for(lambda: list(out.glob("checkpoints/*/.resume-*.tmp")), process)
    disk.unmount()
    time.sleep(25)
    assert process.poll() is None, process.communicate()
    left = [
        name for name in disk.left() if not name.removeprefix("run").startswith(("tune", "/tune"))
    ]
    assert left in ([], ["run"]), "a half run was begun where the disk was"
    # a second sweep does not take the empty folder for a new run
    code, text, err = run(*words, "--resume", cwd=tmp_path)
    assert code == 2, text + err
    assert len(err.splitlines()) == 1
    disk.mount()
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    assert "Storage is away" in text
    assert "the sweep waits" in text
    assert [row["status"] for row in rows(out)] == ["done", "done"]
    assert [len(rows(out, "history.csv"))] == [20]
