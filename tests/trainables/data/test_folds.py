"""Folds: who is validated in which, what the rest of the data set makes of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import TrialConfig
from trainables.data.dataset import DataError, DataSet, index_dataset, main, open_dataset
from trainables.data.examples import forget_images, load_split
from trainables.data.folds import deal
from trainables.data.splits import DataOptions, few_groups_note

SIZES = st.dictionaries(st.text("abcdefg", min_size=1, max_size=3), st.integers(1, 9), min_size=2)


def test_larger_groups_are_dealt_first_to_the_fold_with_the_fewest_images() -> None:
    # 5 | 4 | 3, then 2 to the third (3 + 2), then 1 to the second (4 + 1)
    sizes = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert [sorted(fold) for fold in deal(sizes, 3, 0)] == [["e"], ["a", "d"], ["b", "c"]]
    # of folds with as many images, the one with fewer groups: 2 | 1 1, and not 2 1 | 1
    assert [sorted(fold) for fold in deal({"a": 1, "b": 2, "c": 1}, 2, 0)] == [["b"], ["a", "c"]]


@given(SIZES, st.data(), st.integers(0, 99))
def test_every_group_is_in_one_fold_and_folds_are_alike(
    sizes: dict[str, int], drawn: st.DataObject, seed: int
) -> None:
    folds = drawn.draw(st.integers(1, len(sizes)))
    dealt = deal(sizes, folds, seed)
    assert len(dealt) == folds
    assert all(dealt)
    assert sorted(sum(dealt, [])) == sorted(sizes)
    images = [sum(sizes[group] for group in fold) for fold in dealt]
    assert max(images) - min(images) <= max(sizes.values())
    turned = dict(reversed(sizes.items()))
    assert deal(turned, folds, seed) == dealt, "whatever the order of the files"


def test_more_folds_than_groups_cannot_be_dealt() -> None:
    with pytest.raises(ValueError, match="2 groups cannot be dealt into 3 folds"):
        deal({"a": 1, "b": 1}, 3, 0)


def test_the_seed_of_the_split_deals_groups_of_one_size() -> None:
    sizes = dict.fromkeys("abcdefgh", 1)
    assert len({str(deal(sizes, 4, seed)) for seed in range(9)}) > 4


def write(root: Path, stems: list[str], yaml: str = "", empty: tuple[str, ...] = ()) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, stem in enumerate(stems):
        pixels = rng.integers(100, 1000, (40, 40)).astype(np.uint16) + np.uint16(1000 * number)
        labels = np.zeros((40, 40), np.uint16)
        if stem not in empty:
            labels[5:15, 5:15], labels[20:30, 20:30] = 1, 2
        tifffile.imwrite(root / "images" / f"{stem}.tif", pixels)
        tifffile.imwrite(root / "masks" / f"{stem}.tif", labels)
    if yaml:
        (root / "dataset.yaml").write_text(yaml)
    return root


TEN = [f"i{n}" for n in range(10)]
PAIRS = f"groups: {{{', '.join(f'{stem}: g{n // 2}' for n, stem in enumerate(TEN))}}}\n"
"""Five groups of two images each."""


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "d", TEN, PAIRS)


def groups(dataset: DataSet, name: str) -> set[str]:
    return {item.group for item in dataset.subset(name)}


def test_each_group_validates_in_one_fold_and_trains_in_the_others(pairs: Path) -> None:
    plain = index_dataset(pairs)
    dataset = index_dataset(pairs, DataOptions(folds=4))
    assert dataset.split["test"] == plain.split["test"], "the test images stay as they are"
    assert dataset.fold is None
    assert dataset.split == dataset.of_fold(1).split
    pool = groups(plain, "train") | groups(plain, "val")
    validated = [groups(dataset.of_fold(fold), "val") for fold in (1, 2, 3, 4)]
    assert sorted(group for fold in validated for group in fold) == sorted(pool)
    for fold in (1, 2, 3, 4):
        one = dataset.of_fold(fold)
        assert one.fold == fold
        assert groups(one, "train") == pool - groups(one, "val")
        assert one.split["test"] == plain.split["test"]
        assert one.fingerprint == dataset.fingerprint
        assert list(one.split["train"]) == sorted(one.split["train"])
        assert dataset.parts[f"fold {fold}"] == one.split["val"]
    assert {item.stem for item in dataset.validated} == {*plain.split["train"], *plain.split["val"]}
    assert dataset.trained == dataset.validated
    assert list(dataset.parts)[-1] == "test"
    assert plain.parts == plain.split
    assert plain.validated == plain.subset("val")
    assert plain.trained == plain.subset("train")


def test_the_fingerprint_follows_the_folds(pairs: Path) -> None:
    options = [DataOptions(), DataOptions(folds=2), DataOptions(folds=4)]
    options.append(DataOptions(folds=2, split_seed=1))
    assert len({index_dataset(pairs, one).fingerprint for one in options}) == len(options)
    again = index_dataset(pairs, DataOptions(folds=4))
    assert again == index_dataset(pairs, DataOptions(folds=4))


def test_a_fold_that_is_not_there_is_refused(pairs: Path) -> None:
    plain, dataset = index_dataset(pairs), index_dataset(pairs, DataOptions(folds=2))
    assert plain.of_fold(None) is plain
    with pytest.raises(DataError, match="divided into no folds, not fold 1"):
        plain.of_fold(1)
    for fold in (None, 0, 3):
        with pytest.raises(DataError, match=f"divided into 2 folds, not fold {fold}"):
            dataset.of_fold(fold)


@pytest.mark.parametrize("mode", ["image", "dataset"])
def test_one_process_trains_folds_one_after_the_other(pairs: Path, mode: str) -> None:
    """What it kept in memory of one fold is no other fold's validation image, nor its scale."""
    dataset = index_dataset(pairs, DataOptions(folds=4))
    config = TrialConfig.model_validate({"normalization": mode})
    forget_images()
    found = {}
    for fold in (1, 2, 1, 3):
        one = dataset.of_fold(fold)
        for name in ("train", "val"):
            examples = load_split(one, name, config)
            assert tuple(example.stem for example in examples) == one.split[name]
            for example in examples:
                image, _ = one.load(
                    next(i for i in one.items if i.stem == example.stem), config.normalization
                )
                np.testing.assert_array_equal(example.image, image)
            found[fold, name] = {example.stem: example.image for example in examples}
    (stem, *_) = set(found[1, "train"]) & set(found[2, "train"])
    same = np.array_equal(found[1, "train"][stem], found[2, "train"][stem])
    assert same == (mode == "image"), "scaled by the fold's own training images"
    forget_images()


def test_train_and_val_of_dataset_yaml_are_put_together(tmp_path: Path) -> None:
    yaml = PAIRS + "split: {train: [g0, g1], val: [g3], test: [g2]}\n"
    root = write(tmp_path / "d", TEN, yaml)
    dataset = open_dataset(root, DataOptions(folds=3))
    assert groups(dataset, "test") == {"g2"}
    assert {item.group for item in dataset.validated} == {"g0", "g1", "g3"}
    notes = " ".join(dataset.notes)
    assert (
        "folds=3: the groups under train and val in dataset.yaml are put together and dealt into "
        "3 folds; those under test stay the test images" in notes
    )
    assert "2 images belong to no split" in notes, "g4"
    assert "folds" not in " ".join(open_dataset(root).notes)
    # one of the two is enough, the test is not
    (root / "dataset.yaml").write_text(PAIRS + "split: {train: [g0, g1, g3], test: [g2]}\n")
    assert index_dataset(root, DataOptions(folds=3)).folds == dataset.folds
    with pytest.raises(DataError, match=r"split\.val is empty"):
        index_dataset(root)
    (root / "dataset.yaml").write_text(PAIRS + "split: {test: [g2]}\n")
    with pytest.raises(DataError, match=r"(?s)split\.train is empty.*split\.val is empty"):
        index_dataset(root, DataOptions(folds=3))
    (root / "dataset.yaml").write_text(PAIRS + "split: {train: [g0, g1, g3]}\n")
    with pytest.raises(DataError, match=r"split\.test is empty"):
        index_dataset(root, DataOptions(folds=3))


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        (5, "folds=5, but only 4 groups can be dealt into folds (of 5; 1 for testing): give at "),
        (1, "folds: 1 is not possible: give 2 or more, or leave it out for one validation part"),
        (0, "folds: 0 is not possible"),
        (-3, "folds: -3 is not possible"),
    ],
)
def test_folds_that_cannot_be(
    pairs: Path, folds: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(pairs), "--folds", str(folds)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_folds_need_groups(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", str(pairs), "--folds", "2", "--split", "time_blocks"]
    assert main(words) == 2
    said = "error: folds=2 needs whole groups: it does not work with split=time_blocks\n"
    assert capsys.readouterr().err == said


def test_one_group_besides_the_test_has_no_folds(tmp_path: Path) -> None:
    yaml = PAIRS + "split: {train: [g0], test: [g2]}\n"
    root = write(tmp_path / "d", TEN, yaml)
    with pytest.raises(DataError, match="add groups, or leave folds out"):
        index_dataset(root, DataOptions(folds=2))


def test_check_shows_every_fold(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(pairs), "--folds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split(",")[0].strip() for line in lines[1:4]]
    assert shown == ["fold 1: 4 images", "fold 2: 4 images", "test: 2 images"]


def test_equal_images_in_two_folds_are_refused(pairs: Path) -> None:
    dataset = index_dataset(pairs, DataOptions(folds=2))
    one, two = dataset.folds[0][0], dataset.folds[1][0]
    (pairs / "images" / f"{two}.tif").write_bytes((pairs / f"images/{one}.tif").read_bytes())
    with pytest.raises(DataError, match=rf"more than one part: .*{one} \(fold 1\)"):
        open_dataset(pairs, DataOptions(folds=2))


def test_a_fold_without_cells_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "d", TEN, PAIRS)
    fold = index_dataset(root, DataOptions(folds=4)).folds[2]
    bare = write(tmp_path / "bare", TEN, PAIRS, empty=fold)
    with pytest.raises(DataError, match=": fold 3: no mask contains a cell"):
        open_dataset(bare, DataOptions(folds=4))


class Image:
    def __init__(self, number: int) -> None:
        self.stem = self.group = f"i{number}"


def note(train: int, val: int, **options: Any) -> str:
    images = [Image(number) for number in range(train + val)]
    stems = [image.stem for image in images]
    split = {"train": stems[:train], "val": stems[train:]}
    return "".join(few_groups_note(images, split, DataOptions(**options)))


def test_few_groups_are_told_of_folds() -> None:
    assert (
        "Use --set folds=4: then each of the 8 groups that are not for testing is for validation "
        "once, with 4 times as many trials (docs/folds.md). Or label more groups (fields"
    ) in note(6, 2)
    assert "--set folds=3: then each of the 6 groups" in note(4, 2)
    assert "--set folds=4: then each of the 9 groups" in note(7, 2)
    assert "--set folds=5: then each of the 10 groups" in note(8, 2)
    assert "--set folds=5: then each of the 25 groups" in note(20, 5)
    assert "Use --set" not in note(3, 2)
    assert "Folds would not be enough: only 5 groups are not for testing" in note(3, 2)
    assert note(16, 6) == ""
    # with folds, all of them are for validation
    assert note(6, 2, folds=5) == note(4, 2, folds=3) == ""
    assert "validation has 5 independent groups, fewer than 6" in note(3, 2, folds=5)
    assert note(3, 2, folds=5).endswith("Label more groups (fields, patients or time-lapses)")
    assert "folds" not in note(30, 1, split="time_blocks")
