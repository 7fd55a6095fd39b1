"""Which images are in which split, and what the fingerprint makes of it."""

from __future__ import annotations

from trainables.data.splits import DataOptions
from numpy.typing import NDArray
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from trainables.data.dataset import (
    DataError,
    DataSet,
    index_dataset,
    main,
    open_dataset,
)


def film(root: Path, frames: int, memory: float, *, still: float = 0.0, seed: int = 0) -> Path:
    """Write frames of which neighbours share the part `memory` of their contents, and all the
    part `still`.
    """
    rng = np.random.default_rng(seed)

    def texture() -> NDArray[np.float64]:
        blurred = gaussian_filter(rng.normal(0, 1, (80, 96)), 2)
        scaled: NDArray[np.float64] = blurred / blurred.std()
        return scaled

    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    content, background = texture(), texture()
    labels = np.zeros((80, 96), np.uint16)
    labels[10:20, 10:20], labels[40:55, 40:55] = 1, 2
    for number in range(frames):
        content = memory * content + np.sqrt(1 - memory**2) * texture()
        image = 3000 + 300 * (np.sqrt(still) * background + np.sqrt(1 - still) * content)
        tifffile.imwrite(root / "images" / f"t{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(root / "masks" / f"t{number}.tif", labels)
    return root


def yaml(root: Path, text: str) -> Path:
    (root / "dataset.yaml").write_text(text)
    return root


def blocks(**more: object) -> DataOptions:
    return DataOptions(split="time_blocks", **more)


def check(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, timeout=300
    )


def notes(dataset: DataSet) -> str:
    return "\n".join(dataset.notes)


def test_the_gap_is_as_long_as_neighbours_correlate(tmp_path: Path) -> None:
    # memory**7 = .37: as much is left after seven frames, six lie between
    root = film(tmp_path / "slow", 60, 0.867)
    dataset = open_dataset(root, blocks())
    gap = dataset.options.gap_frames
    assert gap is not None
    assert 4 <= gap <= 9
    usable = 60 - 2 * gap
    sizes = [len(dataset.split[name]) for name in ("train", "val", "test")]
    assert sizes == [usable - 2 * round(0.2 * usable), round(0.2 * usable), round(0.2 * usable)]
    numbers = [[int(s[1:]) for s in dataset.split[n]] for n in ("train", "val", "test")]
    assert numbers[1][0] - numbers[0][-1] == gap + 1
    assert numbers[2][0] - numbers[1][-1] == gap + 1
    assert (numbers[0][0], numbers[2][-1]) == (0, 59)
    assert f"{gap} frames between" in notes(dataset)
    assert f"{2 * gap} frames" in notes(dataset)
    assert "correlate" in notes(dataset)
    # frames that have nothing in common need none
    fast = open_dataset(film(tmp_path / "fast", 30, 0.0), blocks())
    assert fast.options.gap_frames == 0
    assert sum(map(len, fast.split.values())) == 30


def test_workers_get_the_split_of_the_driver(tmp_path: Path) -> None:
    root = film(tmp_path / "d", 40, 0.8)
    driver = open_dataset(root, blocks())
    assert driver.options.gap_frames
    alone = index_dataset(root, blocks())
    assert (alone.split, alone.options) == (driver.split, driver.options)
    assert alone.fingerprint == driver.fingerprint
    # the resolved options need no pixels
    worker = index_dataset(root, DataOptions(**driver.options.model_dump()))
    assert (worker.split, worker.fingerprint) == (driver.split, driver.fingerprint)
    other = index_dataset(root, blocks(gap_frames=driver.options.gap_frames + 1))
    assert other.fingerprint != driver.fingerprint


def test_a_sequence_too_short_for_its_gap(tmp_path: Path) -> None:
    dataset = open_dataset(film(tmp_path / "d", 12, 0.97), blocks())
    assert dataset.options.gap_frames == 2
    assert "too short" in notes(dataset)
    assert "too good" in notes(dataset)
    assert all(dataset.split[name] for name in ("train", "val", "test"))
    # three frames: one each, no room for any gap
    tiny = open_dataset(film(tmp_path / "e", 3, 0.97), blocks())
    assert [len(v) for v in tiny.split.values()] == [1, 1, 1]
    assert "too short" in notes(tiny)


def test_what_stands_still_is_in_every_block(tmp_path: Path) -> None:
    dataset = open_dataset(film(tmp_path / "d", 24, 0.0, still=0.95), blocks())
    assert dataset.options.gap_frames == 0
    assert "does not move" in notes(dataset)


def test_a_gap_by_hand(tmp_path: Path) -> None:
    root = film(tmp_path / "d", 10, 0.0)
    dataset = open_dataset(root, blocks(gap_frames=2))
    assert [len(dataset.split[n]) for n in ("train", "val", "test")] == [4, 1, 1]
    assert "4 frames between" in notes(dataset)
    with pytest.raises(DataError, match=r"10 frames .* gap_frames=4; at most gap_frames=3"):
        open_dataset(root, blocks(gap_frames=4))
    done = check("trainables.data", "check", root, "--split", "time_blocks", "--gap-frames", 1)
    assert done.returncode == 0, done.stderr
    assert "train: 4 images" in done.stdout
    done = check("sweep.run", "demo", "--data", root, "--plan", "--set", "gap_frames=1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --set gap_frames")
    assert "split=time_blocks" in done.stderr


def test_blocks_do_not_follow_the_split_of_dataset_yaml_and_say_so(tmp_path: Path) -> None:
    root = yaml(film(tmp_path / "d", 10, 0.0), "split: {train: [t0], val: [t1], test: [t2]}")
    dataset = open_dataset(root, blocks(gap_frames=1))
    assert [len(dataset.split[n]) for n in ("train", "val", "test")] == [4, 2, 2]
    assert "split in dataset.yaml is ignored" in notes(dataset)
    assert "split in dataset.yaml" not in notes(open_dataset(root))


def test_split_identity(tmp_path: Path) -> None:
    """The fingerprint follows split and seed, and nothing that leaves both alone."""
    root = film(tmp_path / "d", 12, 0.0)
    base = index_dataset(root)
    drawn = [index_dataset(root, DataOptions(split_seed=seed)) for seed in range(9)]
    splits = {tuple(sorted(one.split.items())): one.fingerprint for one in drawn}
    assert len(set(splits.values())) == len(splits) > 3
    assert all(splits[tuple(sorted(one.split.items()))] == one.fingerprint for one in drawn)
    fewer = index_dataset(root, DataOptions(test_fraction=0.4))
    assert fewer.fingerprint != base.fingerprint
    assert index_dataset(root, blocks(gap_frames=0)).fingerprint != base.fingerprint
    # val and test exchanged: the same images, another split
    names = [f"t{n}" for n in range(12)]
    text = "split: {{train: {}, val: {}, test: {}}}"
    one = index_dataset(yaml(root, text.format(names[:8], names[8:10], names[10:]))).fingerprint
    two = index_dataset(yaml(root, text.format(names[:8], names[10:], names[8:10]))).fingerprint
    assert len({base.fingerprint, one, two}) == 3
    yaml(root, text.format(names[:7], names[8:10], names[10:]))
    three = index_dataset(root)
    assert three.fingerprint not in {base.fingerprint, one, two}
    # the same split, of other groups: other units for a statistic
    halves = {f"t{n}": "abcd"[n // 3] for n in range(12)}
    text = "groups: {}\nsplit: {{train: {}, val: [c], test: [d]}}"
    four = index_dataset(yaml(root, text.format(halves, "[a, b]")))
    joined = {stem: "a" if group == "b" else group for stem, group in halves.items()}
    five = index_dataset(yaml(root, text.format(joined, "[a]")))
    assert four.split == five.split
    assert four.fingerprint != five.fingerprint


def test_units_and_times_are_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    root = film(tmp_path / "d", 6, 0.0)
    before = index_dataset(root)
    after = index_dataset(yaml(root, "pixel_size_um: 0.3\nframe_interval_s: 60\n"))
    assert after.fingerprint == before.fingerprint
    assert (after.pixel_size_um, after.frame_interval_s) == (0.3, 60)
    assert (before.pixel_size_um, before.frame_interval_s) == (None, None)


def test_the_plan_follows_the_split(tmp_path: Path) -> None:
    """Through the command line: other trial names for another split, the same for a unit."""
    root = film(tmp_path / "d", 12, 0.0)

    def ids(*more: str) -> list[str]:
        words = ("--set", "architecture=Unet", "--set", "task=semantic2", *more)
        done = check("sweep.run", "demo", "--data", root, "--plan", "--wandb", "off", *words)
        assert done.returncode == 0, done.stderr
        return [w for line in done.stdout.splitlines() for w in line.split()[:1] if "-s0-" in w]

    first = ids()
    assert first
    assert not set(ids("--set", "split_seed=1")) & set(first)
    yaml(root, "pixel_size_um: 0.3")
    assert ids() == first


def test_groups_that_split_does_not_list_are_in_none(tmp_path: Path) -> None:
    root = film(tmp_path / "d", 10, 0.0)
    groups = ", ".join(f"t{n}: g{n // 2}" for n in range(10))
    text = f"groups: {{{groups}}}\nsplit: {{train: [g0], val: [g1], test: [g3]}}"
    dataset = open_dataset(yaml(root, text))
    assert dict(dataset.split) == {"train": ("t0", "t1"), "val": ("t2", "t3"), "test": ("t6", "t7")}
    assert "4 images belong to no split and are not used: t4, t5, t8, t9" in notes(dataset)


def test_groups_that_name_a_part_of_the_images(tmp_path: Path) -> None:
    root = film(tmp_path / "d", 12, 0.99)
    yaml(root, "groups: {t0: a, t1: a, t2: b, t3: c}")
    dataset = open_dataset(root)
    assert sorted(sum(dataset.split.values(), ())) == ["t0", "t1", "t2", "t3"]
    text = notes(dataset)
    assert "groups in dataset.yaml does not name 8 of 12 images: t4, t5" in text
    assert "They are not used." in text
    # and the frames are still taken for what they are
    assert "consecutive frames" in text
    done = check(
        "sweep.run",
        "demo",
        "--data",
        root,
        "--plan",
        "--wandb",
        "off",
        "--set",
        "architecture=Unet",
        "--set",
        "task=semantic2",
    )
    assert done.returncode == 0, done.stderr
    assert "does not name 8 of 12 images" in done.stdout
    # named in the split by itself, an image is its own group
    named = open_dataset(
        yaml(root, "groups: {t0: a, t1: a}\nsplit: {train: [a], val: [t5], test: [t9]}")
    )
    assert dict(named.split) == {"train": ("t0", "t1"), "val": ("t5",), "test": ("t9",)}
    # blocks of time are cut in the named ones
    cut = open_dataset(yaml(root, "groups: {t0: a, t1: a, t2: a}"), blocks(gap_frames=0))
    assert sum(cut.split.values(), ()) == ("t0", "t1", "t2")


def test_whole_groups_silence_the_warning(tmp_path: Path) -> None:
    for number in range(3):
        film(tmp_path / f"f{number}", 4, 0.99, seed=number)
    root = film(tmp_path / "d", 1, 0)
    for path in root.glob("*/*"):
        path.unlink()
    groups = {}
    for number in range(3):
        for folder in ("images", "masks"):
            for path in (tmp_path / f"f{number}" / folder).iterdir():
                path.rename(root / folder / f"f{number}_{path.name}")
                groups[f"f{number}_{path.stem}"] = f"f{number}"
    yaml(root, "groups: {" + ", ".join(f"{k}: {v}" for k, v in groups.items()) + "}")
    assert "consecutive frames" not in notes(open_dataset(root))
    (root / "dataset.yaml").unlink()
    assert "consecutive frames" in notes(open_dataset(root))


@pytest.mark.realdata
def test_a_real_time_lapse_in_blocks(real_data: Path) -> None:
    dataset = open_dataset(real_data / "yeastvision_phase", blocks())
    assert dataset.options.gap_frames == 1
    assert "too short" in notes(dataset)
    assert sum(map(len, dataset.split.values())) == 8


def test_too_few_validation_groups_are_said_before_anything_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = film(tmp_path / "d", 30, 0.5)
    named = [f"t{n}" for n in range(30)]

    def said(text: str, *words: str) -> str:
        yaml(root, text)
        assert main(["check", str(root), *words]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "fewer than 6" in line]
        assert len(lines) <= 1
        return "".join(lines)

    assert said("") == ""  # each image alone: 6 of 30
    ten = "groups: {" + ", ".join(f"{name}: g{n // 3}" for n, name in enumerate(named)) + "}"
    note = said(ten)
    assert note.startswith("  note: validation has 2 independent groups, fewer than 6: ")
    assert "(at best p = 0.5)" in note
    assert "with 28 groups, 6 go to validation" in note
    split = "split: {train: [t0, t1], val: [t2, t3, t4, t5, t6], test: [t7]}"
    assert "5 independent groups" in said(split)
    assert "p = 0.062" in said(split)
    assert said(split.replace("t6]", "t6, t8]")) == ""
    assert "1 independent group," in said("", "--split", "time_blocks")
