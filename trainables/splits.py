"""dataset.yaml, and which images are for training, validation and testing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

SPLITS = ("train", "val", "test")


class DataOptions(BaseModel):
    """How the images of a data set are divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["groups", "time_blocks"] = "groups"
    """``groups``: whole groups go to one side; ``time_blocks``: each group is cut in three
    consecutive blocks of frames, in the natural order of names."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seeds the drawing of groups; not used where dataset.yaml gives the split."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of groups (or of frames) for validation; at least one."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of groups (or of frames) for testing; at least one."""


class Metadata(BaseModel):
    """Contents of dataset.yaml."""

    model_config = ConfigDict(extra="forbid")

    pixel_size_um: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    groups: dict[str, str] = {}
    split: dict[Literal["train", "val", "test"], list[str]] | None = None


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Sort key under which ``t2`` comes before ``t10``."""
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in re.split(r"(\d+)", text) if p]


def read_metadata(root: Path, problems: list[str]) -> Metadata:
    """Read dataset.yaml, if there is one; add what is wrong with it to `problems`."""
    path = root / "dataset.yaml"
    if not path.exists():
        return Metadata()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(f"dataset.yaml: not valid YAML: {' '.join(str(error).split())}")
        return Metadata()
    except OSError as error:
        problems.append(f"dataset.yaml: cannot be read ({error.strerror})")
        return Metadata()
    if not isinstance(content, dict):
        problems.append("dataset.yaml: must be a mapping with pixel_size_um, groups, split")
        return Metadata()
    if isinstance(content.get("groups"), dict):  # YAML reads names such as 007 as numbers
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
            problems.append(f"dataset.yaml: {where}: {one['msg'].lower()}")
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
    """Cut each group's frames into three consecutive blocks."""
    split: dict[str, list[str]] = {name: [] for name in SPLITS}
    short = []
    for group, stems in members.items():
        n_val = max(1, round(options.val_fraction * len(stems)))
        n_test = max(1, round(options.test_fraction * len(stems)))
        n_train = len(stems) - n_val - n_test
        if n_train < 1:
            short.append(f"group {group}: {len(stems)} frames cannot be cut in three time blocks")
            continue
        split["train"] += stems[:n_train]
        split["val"] += stems[n_train : n_train + n_val]
        split["test"] += stems[n_train + n_val :]
    return split, short


_TIME_BLOCKS_HINT = (
    "divide further sequences or fields into groups of their own, or cut the sequence into "
    "blocks of time with --set split=time_blocks"
)


def make_split(
    stems: Sequence[str], meta: Metadata, options: DataOptions, problems: list[str]
) -> dict[str, tuple[str, ...]]:
    """Decide which stems are for training, validation and testing."""
    group_of = {stem: meta.groups.get(stem, stem) for stem in stems}
    unknown = sorted(set(meta.groups) - set(stems), key=natural_key)
    if unknown:
        problems.append(f"dataset.yaml: groups names images that are not there: {some(unknown)}")
    members: dict[str, list[str]] = {}
    for stem in stems:
        members.setdefault(group_of[stem], []).append(stem)

    if options.split == "time_blocks":
        if not meta.groups:  # one field unless said otherwise
            members = {"all images": list(stems)}
        by_stem, short = _time_blocks(members, options)
        problems += short
        return {name: tuple(by_stem[name]) for name in SPLITS}
    if meta.split is None:
        if len(members) < 3:
            problems.append(
                f"{len(stems)} images form {len(members)} group(s) ({some(list(members))}): a "
                "split into train, val and test needs at least 3 groups, since images of one "
                f"group are not independent; {_TIME_BLOCKS_HINT}"
            )
            return dict.fromkeys(SPLITS, ())
        by_group = _draw_split(list(members), options)
    else:
        by_group = {name: meta.split.get(name, []) for name in SPLITS}  # type: ignore[call-overload]
        problems += _split_problems(by_group, members)
    sides = {g: name for name in SPLITS for g in by_group[name]}
    return {
        name: tuple(stem for stem in stems if sides.get(group_of[stem]) == name) for name in SPLITS
    }


def _split_problems(by_group: Mapping[str, list[str]], members: Mapping[str, Any]) -> list[str]:
    problems = []
    seen: dict[str, str] = {}
    for name in SPLITS:
        if not by_group[name]:
            problems.append(f"dataset.yaml: split.{name} is empty; name at least one group")
        for group in by_group[name]:
            if group not in members:
                problems.append(f"dataset.yaml: split.{name} names a group without images: {group}")
            if seen.setdefault(group, name) != name:
                problems.append(
                    f"dataset.yaml: group {group} is on both sides of the split: "
                    f"{seen[group]} and {name}"
                )
    return problems


def some(names: Sequence[str], most: int = 8) -> str:
    """Return the first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
