"""Which image is for what, and what is said of the others: rules by hand, without any pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.data.splits import (
    SPLITS,
    DataOptions,
    Metadata,
    few_groups_note,
    group_name,
    group_members,
    make_split,
    natural_key,
    read_metadata,
    recorded_options,
    some,
    time_sequences,
    unused_notes,
)
from trainables.data.timegap import Gap, choose_gap, gap_notes

STEMS = [f"t{n}" for n in range(10)]


def split(
    stems: list[str] = STEMS, meta: Metadata | None = None, **options: Any
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    problems: list[str] = []
    return make_split(stems, meta or Metadata(), DataOptions(**options), problems), problems


def blocks(stems: list[str] = STEMS, meta: Metadata | None = None, **options: Any) -> Any:
    return split(stems, meta, split="time_blocks", **options)


def test_names_are_sorted_as_people_count() -> None:
    names = ["t10b", "t2", "b", "10", "t10a", "t1", "9", "", "a1b2", "a1b10"]
    ordered = ["", "9", "10", "a1b2", "a1b10", "b", "t1", "t2", "t10a", "t10b"]
    assert sorted(names, key=natural_key) == ordered
    assert natural_key("t02x") == [(1, "t"), (0, 2), (1, "x")]


def test_of_many_names_the_first_are_shown() -> None:
    assert some([]) == ""
    assert some(list("abcdefgh")) == "a, b, c, d, e, f, g, h"
    assert some(list("abcdefghi")) == "a, b, c, d, e, f, g, h and 1 more"
    assert some(["a", "b", "c"], 2) == "a, b and 1 more"
    assert some(["a", "b"], 2) == "a, b"


def test_a_gap_needs_blocks_of_time() -> None:
    assert DataOptions(split="time_blocks", gap_frames=0).gap_frames == 0
    with pytest.raises(ValueError, match="gap_frames needs split=time_blocks"):
        DataOptions(gap_frames=0)


def test_options_of_a_run_that_knew_no_gap() -> None:
    assert recorded_options({"split": "time_blocks"}).gap_frames == 0
    assert recorded_options({"split": "time_blocks", "gap_frames": None}).gap_frames == 0
    assert recorded_options({"split": "time_blocks", "gap_frames": 4}).gap_frames == 4
    given = {"split": "groups", "split_seed": 3}
    assert recorded_options(given) == DataOptions(split_seed=3)
    assert given == {"split": "groups", "split_seed": 3}


def test_groups_and_their_images() -> None:
    assert group_members(["a", "b"], Metadata()) == {"a": ["a"], "b": ["b"]}
    named = Metadata(groups={"a": "g", "c": "g", "d": "h"})
    assert group_members(list("abcd"), named) == {"g": ["a", "c"], "h": ["d"]}
    # what the split names by itself is a group by itself
    both = Metadata(groups={"a": "g"}, split={"train": ["g"], "val": ["b"]})
    assert group_members(list("abc"), both) == {"g": ["a"], "b": ["b"]}
    assert time_sequences(list("ab"), Metadata()) == {"all images": ["a", "b"]}
    assert time_sequences(list("abcd"), named) == {"g": ["a", "c"], "h": ["d"]}


def test_the_draws_that_earlier_runs_made() -> None:
    """Which group goes where follows from the seed, and must not change."""
    letters = list("jihgfedcba")
    found, problems = split(letters)
    assert problems == []
    assert {name: "".join(sorted(found[name])) for name in SPLITS} == {
        "val": "eg",
        "test": "ch",
        "train": "abdfij",
    }
    other, _ = split(letters, split_seed=1)
    assert {name: "".join(sorted(other[name])) for name in SPLITS} == {
        "val": "ei",
        "test": "ah",
        "train": "bcdfgj",
    }
    assert found["train"] == tuple("jifdba"), "in the order of the images"


@given(st.integers(3, 40), st.floats(0.01, 0.45), st.floats(0.01, 0.45))
def test_shares_of_the_groups(count: int, val: float, test: float) -> None:
    stems = [f"i{n}" for n in range(count)]
    found, problems = split(stems, val_fraction=val, test_fraction=test)
    assert problems == []
    assert len(found["val"]) == max(1, round(val * count))
    assert len(found["test"]) == min(max(1, round(test * count)), count - len(found["val"]))
    assert sorted(sum(found.values(), ())) == sorted(stems)


def test_whole_groups_go_into_one_part() -> None:
    meta = Metadata(groups={stem: "abc"[n % 3] for n, stem in enumerate(STEMS)})
    found, _ = split(meta=meta)
    assert sorted(len(found[name]) for name in SPLITS) == [3, 3, 4]
    for name in SPLITS:
        assert len({meta.groups[stem] for stem in found[name]}) == 1


def test_two_groups_are_too_few() -> None:
    meta = Metadata(groups={stem: "ab"[n % 2] for n, stem in enumerate(STEMS)})
    found, problems = split(meta=meta)
    assert found == {"train": (), "val": (), "test": ()}
    assert problems == [
        "10 images form 2 group(s) (a, b): a split into train, val and test needs at least 3 "
        "groups, since images of one group are not independent; add sequences or fields as further "
        "groups, or cut the sequence into blocks of time with --set split=time_blocks"
    ]


def test_the_split_of_dataset_yaml() -> None:
    meta = Metadata(
        groups={"t0": "a", "t1": "a", "t2": "b"},
        split={"test": ["t4", "a"], "train": ["b"], "val": ["t3"]},
    )
    found, problems = split(meta=meta)
    assert problems == []
    assert found == {"train": ("t2",), "val": ("t3",), "test": ("t0", "t1", "t4")}


def test_what_is_wrong_with_a_split() -> None:
    meta = Metadata(
        groups={"zz10": "a", "zz2": "a"},
        split={"train": ["t0", "no"], "val": ["t1", "t1"], "test": ["t0"]},
    )
    assert split(meta=meta)[1] == [
        "dataset.yaml: groups names images that do not exist: zz2, zz10",
        "dataset.yaml: split.train names a group without images: no",
        "dataset.yaml: group t0 is in two parts of the split: train and test",
    ]
    empty = Metadata(split={"train": ["t0"], "test": []})
    assert split(meta=empty)[1] == [
        "dataset.yaml: split.val is empty; name at least one group",
        "dataset.yaml: split.test is empty; name at least one group",
    ]


def test_blocks_of_time_with_gaps_between_them() -> None:
    found, problems = blocks()
    assert problems == []
    assert found == {
        "train": ("t0", "t1", "t2", "t3", "t4", "t5"),
        "val": ("t6", "t7"),
        "test": ("t8", "t9"),
    }
    assert blocks(gap_frames=2)[0] == {
        "train": ("t0", "t1", "t2", "t3"),
        "val": ("t6",),
        "test": ("t9",),
    }
    assert blocks(gap_frames=1, val_fraction=0.5, test_fraction=0.1)[0] == {
        "train": ("t0", "t1", "t2"),
        "val": ("t4", "t5", "t6", "t7"),
        "test": ("t9",),
    }
    assert blocks(["a", "b", "c"])[0] == {"train": ("a",), "val": ("b",), "test": ("c",)}


def test_every_group_is_cut_and_short_ones_are_named() -> None:
    groups = {stem: "long" for stem in STEMS[:7]} | {stem: "short" for stem in STEMS[7:]}
    meta = Metadata(groups=groups)
    assert blocks(meta=meta)[0] == {
        "train": ("t0", "t1", "t2", "t3", "t4", "t7"),
        "val": ("t5", "t8"),
        "test": ("t6", "t9"),
    }
    found, problems = blocks(meta=meta, gap_frames=1)
    assert problems == [
        "group short: 3 frames cannot be cut into three time blocks with gap_frames=1; "
        "at most gap_frames=0"
    ]
    assert found == {"train": ("t0", "t1", "t2"), "val": ("t4",), "test": ("t6",)}
    assert blocks(["a", "b"])[1] == [
        "group all images: 2 frames cannot be cut into three time blocks"
    ]
    assert blocks(["a", "b"], gap_frames=1)[1] == [
        "group all images: 2 frames cannot be cut into three time blocks"
    ]
    assert blocks(list("abcdef"), gap_frames=2)[1] == [
        "group all images: 6 frames cannot be cut into three time blocks with gap_frames=2; "
        "at most gap_frames=1"
    ]


def notes(
    used: int, meta: Metadata | None = None, gap: Gap | None = None, **options: Any
) -> list[str]:
    """Say what is told where only the first `used` images are in a split."""
    parts = {"train": STEMS[: used - 2], "val": [STEMS[used - 2]], "test": [STEMS[used - 1]]}
    return unused_notes(parts, STEMS, meta or Metadata(), DataOptions(**options), gap)


def test_images_that_are_not_used_are_named_with_the_reason() -> None:
    assert notes(10) == []
    assert notes(8) == ["2 images belong to no split and are not used: t8, t9"]
    named = Metadata(groups={stem: "g" for stem in STEMS[:9]})
    unnamed = (
        "groups in dataset.yaml does not name 1 of 10 images: t9. They are not used. Name a group "
        "for each of them (a single image can be a group of its own)"
    )
    assert notes(9, named) == [unnamed]
    assert notes(8, named) == [
        unnamed,
        "1 images belong to no split and are not used: t8",
    ]
    assert notes(10, named) == []


def test_frames_between_blocks_are_named_with_the_gap() -> None:
    time: dict[str, Any] = {"split": "time_blocks"}
    assert notes(10, **time) == []
    assert notes(6, gap_frames=2, **time) == [
        "blocks of time: 4 frames between blocks are not used (gap_frames=2)"
    ]
    chosen = notes(6, gap=Gap(2, 2, 0.1), gap_frames=2, **time)
    assert len(chosen) == 1
    assert chosen[0].startswith("blocks of time: 2 frames between two blocks (4 frames in all)")
    few = notes(10, gap=Gap(0, 0, 0.1, too_few=True), gap_frames=0, **time)
    assert len(few) == 1
    assert "fewer than 6 frames" in few[0]
    assert "there is no gap between blocks" in few[0]
    given = Metadata(split={"train": ["t0"], "val": ["t1"], "test": ["t2"]})
    assert notes(10, given, **time) == [
        "blocks of time: split in dataset.yaml is ignored; every group is cut into three"
    ]
    part = Metadata(groups={stem: "g" for stem in STEMS[:8]})
    assert [note[:31] for note in notes(6, part, gap_frames=1, **time)] == [
        "groups in dataset.yaml does not",
        "blocks of time: 2 frames betwee",
    ]


@pytest.mark.parametrize(("frames", "said"), [(5, True), (6, False)])
def test_films_of_five_frames_have_no_gap_and_it_is_said(frames: int, said: bool) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=(8, 8)).astype(np.float32) for _ in range(frames)]
    thumbnails = [(a - a.mean()) / a.std() for a in noise]
    gap = choose_gap({"s": thumbnails})
    assert gap.frames == 0
    assert gap.too_few == said
    assert [note[:47] for note in gap_notes(gap, 0)] == [
        "blocks of time: sequences of fewer than 6 frame"
    ] * said


class Image(NamedTuple):
    stem: str
    group: str


def few(groups: int, *, alone: bool = False, **options: Any) -> str:
    """Say what is told where so many groups of two images are for validation."""
    images = [Image(f"i{n}", f"i{n}" if alone else f"g{n // 2}") for n in range(2 * groups)]
    others = [Image(f"x{n}", f"x{n}") for n in range(9)]
    parts = {"train": [one.stem for one in others], "val": [one.stem for one in images]}
    found = few_groups_note([*others, *images], parts, DataOptions(**options))
    assert len(found) <= 1
    return "".join(found)


def test_too_few_independent_groups_for_an_answer() -> None:
    assert few(6) == few(9) == ""
    assert few(0) == "", "that is refused elsewhere"
    assert few(3, alone=True) == ""
    assert few(5) == (
        "validation has 5 independent groups, fewer than 6: candidates will be ranked, but "
        "differences between them cannot be distinguished from chance (at best p = 0.062). Use "
        "--set folds=5: then each of the 14 groups that are not for testing is for validation "
        "once, with 5 times as many trials (docs/folds.md). Or label more groups (fields, "
        "patients or time-lapses; with 28 groups, 6 go to validation), or name 6 under split: val "
        "in dataset.yaml"
    )
    assert "has 1 independent group, fewer" in few(1)
    assert "p = 1)" in few(1)
    assert "with 11 groups, 6 go" in few(2, val_fraction=0.5)
    assert "with 55 groups, 6 go" in few(2, val_fraction=0.1)
    assert "with 6 groups, 6 go" in few(2, val_fraction=0.99)


def test_single_images_of_one_time_lapse_are_one_group() -> None:
    images = [Image(f"i{n}", f"i{n}") for n in range(30)]
    parts: dict[str, list[str]] = {"train": [], "val": [one.stem for one in images[:8]]}
    assert few_groups_note(images, parts, DataOptions()) == []
    whole = DataOptions(split="time_blocks")
    images = [Image(one.stem, group_name(one.stem, Metadata(), whole)) for one in images]
    (note,) = few_groups_note(images, parts, DataOptions(split="time_blocks"))
    assert "has 1 independent group, fewer" in note
    assert "2 independent groups" in few(2, split="time_blocks")
    parts["val"] = []
    nothing = few_groups_note(images, parts, DataOptions(split="time_blocks"))
    assert nothing == []


def metadata(root: Path, text: str | bytes | None) -> tuple[Metadata, list[str]]:
    if text is not None:
        (root / "dataset.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    problems: list[str] = ["before"]
    found = read_metadata(root, problems)
    assert problems[0] == "before"
    return found, problems[1:]


def test_a_whole_dataset_yaml(tmp_path: Path) -> None:
    found, problems = metadata(
        tmp_path,
        "\ufeffpixel_size_um: 0.25\nframe_interval_s: 60\ngroups: {007: 1, t1: b}\n"
        "split: {train: [1], val: [b], test: [2.5]}\n",
    )
    assert problems == []
    assert found == Metadata(
        pixel_size_um=0.25,
        frame_interval_s=60,
        groups={"7": "1", "t1": "b"},
        split={"train": ["1"], "val": ["b"], "test": ["2.5"]},
    )


@pytest.mark.parametrize("text", [None, "", "# nothing\n"])
def test_no_dataset_yaml_or_an_empty_one(tmp_path: Path, text: str | None) -> None:
    assert metadata(tmp_path, text) == (Metadata(), [])


@pytest.mark.parametrize("name", ["dataset.yml", "Dataset.YAML", "datasets.yaml", "DATASET.YML"])
def test_a_file_that_is_meant_to_be_dataset_yaml(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "data.yaml").touch()
    assert metadata(tmp_path, None) == (
        Metadata(),
        [f"{name}: ignored, because its name is not dataset.yaml; rename it"],
    )
    assert metadata(tmp_path, "") == (Metadata(), [])


def test_a_folder_that_is_not_there_has_no_misnamed_files(tmp_path: Path) -> None:
    assert metadata(tmp_path / "nowhere", None) == (Metadata(), [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"groups: \xff", ["not UTF-8 text; save it as UTF-8"]),
        ("[" * 5000, ["not valid YAML: nested too deeply"]),
        ("- a", ["must be a mapping with pixel_size_um, groups, split"]),
        ("3", ["must be a mapping with pixel_size_um, groups, split"]),
        (
            "groups: {a: , b: {c: d}, e: [f], g: h}",
            [
                "groups.a: empty; name its group",
                "groups.b: not a name; name its group",
                "groups.e: not a name; name its group",
            ],
        ),
        ("groups: [a]", ["groups: input should be a valid dictionary"]),
        ("split: [a]", ["split: input should be a valid dictionary"]),
        ("split: {train: a}", ["split.train: input should be a valid list"]),
        ("pixel_size_um: .nan", ["pixel_size_um: input should be a finite number"]),
        (
            "pixel_size_um: 0\nframe_interval_s: -1",
            [
                "pixel_size_um: input should be greater than 0",
                "frame_interval_s: input should be greater than 0",
            ],
        ),
        ("frame_interval: 1", ["frame_interval: unknown key; did you mean frame_interval_s?"]),
        (
            "colour: 1",
            [
                "colour: unknown key; known: pixel_size_um, frame_interval_s, groups, split",
            ],
        ),
    ],
)
def test_what_is_wrong_with_dataset_yaml(
    tmp_path: Path, text: str | bytes, expected: list[str]
) -> None:
    found, problems = metadata(tmp_path, text)
    assert problems == [f"dataset.yaml: {line}" for line in expected]
    if not isinstance(text, str) or not text.startswith("groups: {"):
        assert found == Metadata()


@pytest.mark.parametrize(
    ("text", "key"),
    [("groups: {a: b, a: c}", "a"), ("split: {}\nsplit: {}", "split"), ("{1: a, 1: b}", "1")],
)
def test_a_key_that_appears_twice(tmp_path: Path, text: str, key: str) -> None:
    _, (problem,) = metadata(tmp_path, text)
    assert problem.startswith(f"dataset.yaml: not valid YAML: {key} appears twice in ")
    assert "line" in problem
    assert "unicode string" not in problem


def test_a_key_that_is_a_list(tmp_path: Path) -> None:
    found, (problem,) = metadata(tmp_path, "? [a]\n: 1\n")
    assert problem.startswith("dataset.yaml: not valid YAML: ")
    assert found == Metadata()


def test_the_same_name_as_text_and_number_is_not_twice(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("groups: {1: a, '1': b}")
    assert metadata(tmp_path, None)[1] == []


def test_a_dataset_yaml_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").mkdir()
    assert metadata(tmp_path, None)[1] == ["dataset.yaml: cannot be read (Is a directory)"]
    (tmp_path / "dataset.yaml").rmdir()
    (tmp_path / "dataset.yaml").symlink_to(tmp_path / "gone")
    found, problems = metadata(tmp_path, None)
    assert problems == ["dataset.yaml: cannot be read (No such file or directory)"]
    assert found == Metadata()
