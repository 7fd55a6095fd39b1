"""dataset.yaml, and which images are for training, validation and testing."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from trainables.data.timegap import Gap, gap_notes

SPLITS = ("train", "val", "test")


class DataOptions(BaseModel):
    """How the images of a data set are divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["groups", "time_blocks"] = "groups"
    """``groups``: whole groups go into one part; ``time_blocks``: each group is cut into three
    consecutive blocks of frames, in the natural order of names, with a gap between them."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed for drawing groups; not used if dataset.yaml gives the split."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of groups (or of frames) for validation; at least one."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of groups (or of frames) for testing; at least one."""
    gap_frames: Annotated[int, Field(ge=0)] | None = None
    """With ``time_blocks``: frames left unused between two blocks; None: the number of frames over
    which neighbours correlate."""
    folds: int | None = None
    """Number of folds (`trainables.data.folds`): the groups that are not for testing are dealt into
    as many parts, and each part is the validation part of one fold. None: one validation part."""

    @field_validator("folds")
    @classmethod
    def _at_least_two(cls, folds: int | None) -> int | None:
        if folds is not None and folds < 2:
            raise ValueError(
                f"{folds} is not possible: give 2 or more, or leave it out for one validation part"
            )
        return folds

    @model_validator(mode="after")
    def _of_groups(self) -> DataOptions:
        if self.folds is not None and self.split != "groups":
            raise ValueError(
                f"folds={self.folds} needs whole groups: it does not work with split={self.split}"
            )
        return self

    @model_validator(mode="after")
    def _gap_between_blocks(self) -> DataOptions:
        if self.gap_frames is not None and self.split != "time_blocks":
            raise ValueError("gap_frames needs split=time_blocks")
        return self


def recorded_options(content: Mapping[str, Any]) -> DataOptions:
    """Return the options recorded in a run folder's plan.json.

    Runs of versions that knew no gap have a gap of 0.
    """
    content = dict(content)
    if content.get("split") == "time_blocks" and content.get("gap_frames") is None:
        content["gap_frames"] = 0
    return DataOptions.model_validate(content)


class Metadata(BaseModel):
    """Contents of dataset.yaml."""

    model_config = ConfigDict(extra="forbid")

    pixel_size_um: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    frame_interval_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    groups: dict[str, str] = {}
    split: dict[Literal["train", "val", "test"], list[str]] | None = None


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sort key under which ``t2`` comes before ``t10``."""
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in re.split(r"(\d+)", text) if p]


METADATA = "dataset.yaml"


class _Loader(yaml.SafeLoader):
    """Refuses a key that appears twice; YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            one = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else ("", str(key))
            if one in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{one[1]} appears twice", key.start_mark
                )
            seen.add(one)
        return super().construct_mapping(node, deep)


def _load(path: Path) -> Any:
    """Read a YAML file; a ValueError says in one line why it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return yaml.load(text, _Loader) or {}  # a SafeLoader
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text; save it as UTF-8") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
        raise ValueError(f"not valid YAML: {reason}") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error


def _misnamed(root: Path) -> list[str]:
    """Name a file that is meant to be dataset.yaml and is not read."""
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError:
        return []
    close = [name for name in names if name.lower() in (METADATA, "dataset.yml", "datasets.yaml")]
    return [f"{name}: ignored, because its name is not {METADATA}; rename it" for name in close]


def read_metadata(root: Path, problems: list[str]) -> Metadata:
    """Read dataset.yaml, if there is one; add what is wrong with it to `problems`."""
    path = root / METADATA
    if not os.path.lexists(path):
        problems += _misnamed(root)
        return Metadata()
    try:
        content = _load(path)
    except ValueError as error:
        problems.append(f"dataset.yaml: {error}")
        return Metadata()
    if not isinstance(content, dict):
        problems.append("dataset.yaml: must be a mapping with pixel_size_um, groups, split")
        return Metadata()
    if isinstance(content.get("groups"), dict):  # YAML reads names such as 007 as numbers
        problems += [
            f"dataset.yaml: groups.{stem}: {'empty' if group is None else 'not a name'}; name its "
            "group"
            for stem, group in content["groups"].items()
            if group is None or isinstance(group, dict | list)
        ]
        content["groups"] = {str(k): str(v) for k, v in content["groups"].items()}
    if isinstance(content.get("split"), dict):
        content["split"] = {
            key: [str(v) for v in value] if isinstance(value, list) else value
            for key, value in content["split"].items()
        }
    try:
        return Metadata.model_validate(content)
    except ValidationError as error:
        for one in error.errors():
            where = ".".join(str(part) for part in one["loc"])
            message = one["msg"].lower()
            if one["type"] == "extra_forbidden":
                known = list(Metadata.model_fields)
                close = difflib.get_close_matches(where, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                message = f"unknown key; {hint}"
            problems.append(f"dataset.yaml: {where}: {message}")
        return Metadata()


def _draw_split(groups: Sequence[str], options: DataOptions) -> dict[str, list[str]]:
    order = [str(g) for g in np.random.default_rng(options.split_seed).permutation(sorted(groups))]
    n_val = max(1, round(options.val_fraction * len(order)))
    n_test = max(1, round(options.test_fraction * len(order)))
    return {
        "train": order[n_val + n_test :],
        "val": order[:n_val],
        "test": order[n_val : n_val + n_test],
    }


def _time_blocks(
    members: Mapping[str, list[str]], options: DataOptions
) -> tuple[dict[str, list[str]], list[str]]:
    """Cut each group's frames into three consecutive blocks with gaps between them."""
    split: dict[str, list[str]] = {name: [] for name in SPLITS}
    gap = options.gap_frames or 0
    short = []
    for group, stems in members.items():
        used = len(stems) - 2 * gap
        n_val = max(1, round(options.val_fraction * used))
        n_test = max(1, round(options.test_fraction * used))
        n_train = used - n_val - n_test
        if n_train < 1:
            short.append(f"group {group}: {len(stems)} frames cannot be cut into three time blocks")
            most = (len(stems) - 3) // 2
            if gap and most >= 0:
                short[-1] += f" with gap_frames={gap}; at most gap_frames={most}"
            continue
        split["train"] += stems[:n_train]
        split["val"] += stems[n_train + gap : n_train + gap + n_val]
        split["test"] += stems[n_train + 2 * gap + n_val :]
    return split, short


ALL_IMAGES = "all images"
"""Group of the frames of a single time-lapse without groups."""
_TIME_BLOCKS_HINT = (
    "add sequences or fields as further groups, or cut the sequence into blocks of time with "
    "--set split=time_blocks"
)


def group_members(stems: Sequence[str], meta: Metadata) -> dict[str, list[str]]:
    """Return the images of each group.

    Without groups, each image is a group. If dataset.yaml names the groups of some images only,
    the others belong to none, because nobody has said that they are independent of those. An image
    that `split` names is a group by itself.
    """
    by_itself = {name for names in (meta.split or {}).values() for name in names}
    members: dict[str, list[str]] = {}
    for stem in stems:
        if stem in meta.groups:
            members.setdefault(meta.groups[stem], []).append(stem)
        elif not meta.groups or stem in by_itself:
            members.setdefault(stem, []).append(stem)
    return members


def time_sequences(stems: Sequence[str], meta: Metadata) -> dict[str, list[str]]:
    """Return the frames of each sequence that `time_blocks` cuts: groups, or else all images."""
    return group_members(stems, meta) if meta.groups else {ALL_IMAGES: list(stems)}


def group_name(stem: str, meta: Metadata, options: DataOptions) -> str:
    """Return an image's group: without groups the image itself, but if blocks of time are cut from
    all images, these are one time-lapse, which is one group.
    """
    alone = ALL_IMAGES if options.split == "time_blocks" and not meta.groups else stem
    return meta.groups.get(stem, alone)


def make_split(
    stems: Sequence[str], meta: Metadata, options: DataOptions, problems: list[str]
) -> dict[str, tuple[str, ...]]:
    """Decide which stems are for training, validation and testing."""
    unknown = sorted(set(meta.groups) - set(stems), key=natural_key)
    if unknown:
        problems.append(f"dataset.yaml: groups names images that do not exist: {some(unknown)}")
    if options.split == "time_blocks":
        by_stem, short = _time_blocks(time_sequences(stems, meta), options)
        problems += short
        return {name: tuple(by_stem[name]) for name in SPLITS}
    members = group_members(stems, meta)
    if meta.split is None:
        if len(members) < 3:
            count = sum(map(len, members.values()))
            problems.append(
                f"{count} images form {len(members)} group(s) ({some(list(members))}): a "
                "split into train, val and test needs at least 3 groups, since images of one "
                f"group are not independent; {_TIME_BLOCKS_HINT}"
            )
            return dict.fromkeys(SPLITS, ())
        by_group = _draw_split(list(members), options)
    else:
        by_group = {name: meta.split.get(name, []) for name in SPLITS}  # type: ignore[call-overload]
        problems += _split_problems(by_group, members, options)
    sides = {stem: name for name in SPLITS for g in by_group[name] for stem in members.get(g, ())}
    return {name: tuple(stem for stem in stems if sides.get(stem) == name) for name in SPLITS}


def _split_problems(
    by_group: Mapping[str, list[str]], members: Mapping[str, Any], options: DataOptions
) -> list[str]:
    problems = []
    seen: dict[str, str] = {}
    # with folds, train and val are put together: one of them is enough
    enough = {"train", "val"} if options.folds and (by_group["train"] or by_group["val"]) else set()
    for name in SPLITS:
        if not by_group[name] and name not in enough:
            problems.append(f"dataset.yaml: split.{name} is empty; name at least one group")
        for group in by_group[name]:
            if group not in members:
                problems.append(f"dataset.yaml: split.{name} names a group without images: {group}")
            if seen.setdefault(group, name) != name:
                problems.append(
                    f"dataset.yaml: group {group} is in two parts of the split: "
                    f"{seen[group]} and {name}"
                )
    return problems


def unused_notes(
    split: Mapping[str, Sequence[str]],
    stems: Sequence[str],
    meta: Metadata,
    options: DataOptions,
    gap: Gap | None,
) -> list[str]:
    """Say which images are in no split, and why."""
    used = {stem for name in SPLITS for stem in split[name]}
    rest, notes = [s for s in stems if s not in used], []
    unnamed = [s for s in rest if meta.groups and s not in meta.groups]
    if unnamed:
        notes.append(
            f"groups in dataset.yaml does not name {len(unnamed)} of {len(stems)} images: "
            f"{some(unnamed)}. They are not used. Name a group for each of them (a single image "
            "can be a group of its own)"
        )
    rest = [s for s in rest if s not in unnamed]
    if options.split == "time_blocks":
        if meta.split is not None:
            notes.append(
                "blocks of time: split in dataset.yaml is ignored; every group is cut into three"
            )
        if gap is not None:
            notes += gap_notes(gap, len(rest))
        elif rest:
            notes.append(
                f"blocks of time: {len(rest)} frames between blocks are not used "
                f"(gap_frames={options.gap_frames})"
            )
    elif rest:
        notes.append(f"{len(rest)} images belong to no split and are not used: {some(rest)}")
    return notes


LEAST_GROUPS = 6
"""Validation groups needed to distinguish a difference from chance: the same sign in all of 6 has a
probability of 0.03, in all of 5 of 0.06."""


MOST_FOLDS = 5
"""Most folds that notes recommend: each network still trains on four fifths of the images. With
fewer than ten groups they recommend fewer, so that each fold validates two groups and the analysis
can choose parameters for one on the other."""


class Grouped(Protocol):
    """An image and its group, as in `trainables.data.Item`."""

    @property
    def stem(self) -> str: ...  # noqa: D102
    @property
    def group(self) -> str: ...  # noqa: D102


def few_groups_note(
    items: Sequence[Grouped], split: Mapping[str, Sequence[str]], options: DataOptions
) -> list[str]:
    """Return a note if validation has too few independent groups for an answer, or else nothing.

    Parameters
    ----------
    items : sequence of trainables.data.Item
        Without groups, each image is its own group.
    split : mapping
        Stems of each of `SPLITS`.
    options : DataOptions
    """
    validating, others = set(split["val"]), set(split["train"])
    if options.folds is not None:  # each of them validates once
        validating |= others
    count = len({item.group for item in items if item.stem in validating})
    every = len({item.group for item in items if item.stem in validating | others})
    if count >= LEAST_GROUPS or not count:
        return []
    needed = next(n for n in range(3, 10**6) if round(options.val_fraction * n) >= LEAST_GROUPS)
    groups = "1 independent group" if count == 1 else f"{count} independent groups"
    more = "Label more groups (fields, patients or time-lapses"
    chance = (
        f"validation has {groups}, fewer than {LEAST_GROUPS}: candidates will be ranked, but "
        "differences between them cannot be distinguished from chance (at best "
        f"p = {min(1.0, 2 * 0.5**count):.2g}). "
    )
    if options.folds is not None:
        return [f"{chance}{more})"]
    usual = (
        f"{more}; with {needed} groups, {LEAST_GROUPS} go to validation), or name "
        f"{LEAST_GROUPS} under split: val in dataset.yaml"
    )
    if options.split != "groups":
        return [chance + usual]
    if every < LEAST_GROUPS:
        return [
            f"{chance}{usual}. (Folds would not be enough: only {every} groups are not for testing)"
        ]
    folds = min(MOST_FOLDS, every // 2)
    return [
        f"{chance}Use --set folds={folds}: then each of the {every} groups that are not for "
        f"testing is for validation once, with {folds} times as many trials (docs/folds.md)"
        f". Or {usual[0].lower()}{usual[1:]}"
    ]


def some(names: Sequence[str], most: int = 8) -> str:
    """Return the first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
