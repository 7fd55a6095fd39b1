"""A finished sweep whose networks predict what was planted: every score is known without them.

An image's pixel is a code; each network is a table from codes to logits (of an architecture that
an installed package registers). So each network predicts any probability map that is wanted, while
checkpoints, calibrations, tables and images are read as those of a real sweep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
import torch
import yaml
from numpy.typing import NDArray

from analysis.evaluation.calibration import CALIBRATION, FORMAT
from sweep import leaderboard
from tests.analysis.planted_images import LEVELS, MIN_SIZE, SHAPE, Labels, Slots, parts
from trainables import checkpoint
from trainables.config import RECIPE, Normalization, TrialConfig
from trainables.data.dataset import DataSet, index_dataset
from trainables.data.normalization import Intensities
from trainables.predict import Scaling
from trainables.records.files import write_json
from trainables.tiling import WHOLE

CODES = 4096
"""Pixel values that a network knows."""
MODULE = f'''
import torch
from torch import nn


class Table(nn.Module):
    """Gives the logits that its table has for the code of each pixel."""

    def __init__(self, classes):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes, {CODES}))

    def forward(self, images):
        codes = (images[:, 0] * {CODES - 1}).round().long().clamp(0, {CODES - 1})
        return self.logits[:, codes].transpose(0, 1)


def build(encoder, in_channels=1, classes=1, encoder_weights=None):
    return Table(classes)
'''
DIST_INFO = "Metadata-Version: 2.1\nName: planted-networks\nVersion: 1.0\n"

HELD_OUT = (0.7, 0.6)
"""Thresholds for validation images of groups with an even and an odd number."""
DEFAULT, GAP, GAP_HELD_OUT, CALIBRATED = 0.5, 0.45, 0.52, 0.3
"""Between any two of these thresholds is one of `LEVELS`."""
BACKGROUND = 0.05
PIXEL_UM = 0.4
GROUPS = 9
"""Groups of validation images, and of test images."""
BUDGET = 7
START = {3: 47, 1: 66}
"""Of the random numbers, by the number of seeds: there is something of everything to show."""


@dataclass(frozen=True)
class Planned:
    """One trial: its configuration, what the leaderboard says of it, and how well it predicts."""

    config: TrialConfig
    val_iou: float
    quality: float = 0.0
    """Share of the cells that it finds as they are; 0 for trials without a checkpoint."""
    grow: float = 0.0
    """Share of the cells that it finds a pixel larger."""

    @property
    def letter(self) -> str:
        """The last letter of its architecture."""
        return self.config.architecture[-1]


@dataclass
class Planted:
    """A run folder, and all that was planted in it."""

    out: Path
    data: Path
    given: dict[str, Path]
    """Folders of label images from elsewhere."""
    true: dict[str, Labels] = field(default_factory=dict)
    """True label images by stem."""
    split: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    maps: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    """Foreground probabilities by trial_id and stem."""
    trials: dict[str, Planned] = field(default_factory=dict)
    others: dict[str, dict[str, Labels]] = field(default_factory=dict)
    """Label images from elsewhere, by name and stem."""
    population: dict[tuple[str, int], str] = field(default_factory=dict)
    """Population of each true cell, by stem and label."""
    board: pd.DataFrame = field(default_factory=pd.DataFrame)
    per_image: pd.DataFrame = field(default_factory=pd.DataFrame)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    def cells(self, trial_id: str, stem: str, variant: str) -> Labels:
        """Give the cells that the page has to show or score: of a variant 'default', 'calibrated',
        or 'gap' (the gap given back, calibrated).
        """
        odd = int(self.groups[stem][1:]) % 2
        val = {"default": DEFAULT, "calibrated": HELD_OUT[odd], "gap": GAP_HELD_OUT}
        test = {"default": DEFAULT, "calibrated": CALIBRATED, "gap": GAP}
        threshold = (val if stem in self.split["val"] else test)[variant]
        return parts(self.maps[trial_id][stem] >= threshold)


def register(folder: Path) -> None:
    """Install the architectures TableA, TableB, ... in a folder that is then on the path."""
    info = folder / "planted_networks-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "planted_networks.py").write_text(MODULE)
    (info / "METADATA").write_text(DIST_INFO)
    lines = [f"Table{letter} = planted_networks:build" for letter in "ABCD"]
    (info / "entry_points.txt").write_text("\n".join(["[segsweep.architectures]", *lines]) + "\n")


def config(architecture: str, **fields: Any) -> TrialConfig:
    """Give the configuration of a trial whose images are all scaled equally."""
    scaling = Normalization(mode="dataset", mean=0.0, std=1.0)
    fields = {"encoder": "none", "precision": "32", "normalization": scaling, **fields}
    return TrialConfig(architecture=architecture, **fields)


def planned(seeds: int) -> list[Planned]:
    """Give the trials: by IoU they are in another order than by mean AP, and so by test IoU."""
    paper = {"encoder": "resnet152", "batch_size": 4}
    own = [
        Planned(config("TableA", seed=3), 0.81, 0.78),
        Planned(config("TableA", seed=5), 0.83, 0.88),
        Planned(config("TableA", seed=8), 0.78, 0.83),
        Planned(config("TableB", seed=3), 0.86, 0.3),
        Planned(config("TableC", seed=3, task="semantic3"), 0.79, 0.75, 0.8),
        Planned(config("TableD", seed=3), 0.72, 0.4),
        Planned(config("Unet", seed=3, **paper), 0.621),
        Planned(config("Unet", seed=5, **paper), 0.634),
        Planned(config("PAN", seed=3, **paper), 0.657),
        Planned(config("Unet", task="semantic3", **paper), 0.648),
        Planned(config("Unet", encoder="resnet18"), 0.676),
    ]
    return own if seeds > 1 else [own[1], *own[3:]]


def make_study(root: Path, *, seeds: int = 3, between: bool = False) -> Planted:
    """Write data, checkpoints, calibrations and tables of a finished sweep.

    Parameters
    ----------
    root : Path
    seeds : int
        Trainings of the first candidate: 1 or 3.
    between : bool
        Whether populations are of different groups, instead of in the same images.

    The networks' package has to be installed: see `register`.
    """
    rng = np.random.default_rng(START[seeds])
    given = {"person": root / "person", "few": root / "few"}
    study = Planted(root / "run", root / "data", given)
    images = _images(rng, study, between)
    trials = planned(seeds)
    found = {
        number: {
            # where no cell is, only one network invents some
            stem: slots.found(
                one.quality if slots.masks or one.letter == "B" else 1.0,
                one.grow,
                100 * place + ord(one.letter),
            )
            for place, (stem, slots) in enumerate(images.items())
        }
        for number, one in enumerate(trials)
        if one.quality
    }
    maps = {
        number: {stem: _probabilities(levels) for stem, levels in own.items()}
        for number, own in found.items()
    }
    codes, rows = _codes(maps, list(images))
    _write_data(study, codes)
    for place, stem in enumerate(study.split["test"]):
        person = images[stem].found(0.8, 0.2, 7 + 100 * place)[0]
        some = parts(
            np.roll(np.where(study.true[stem] <= 2, study.true[stem], 0), place % 4, 1) > 0
        )
        for name, labels in (("person", parts(person)), ("few", some)):
            study.others.setdefault(name, {})[stem] = labels
            study.given[name].mkdir(exist_ok=True)
            tifffile.imwrite(study.given[name] / f"{stem}.tif", labels.astype(np.uint16))
    dataset = index_dataset(study.data)
    ids = [one.config.trial_id(dataset.fingerprint) for one in trials]
    study.trials = dict(zip(ids, trials))
    study.maps = {ids[number]: own for number, own in maps.items()}
    for place, (trial_id, number) in enumerate((ids[n], n) for n in maps):
        _write_checkpoint(study, dataset, trial_id, trials[number].config, rows[:, place])
    _write_tables(rng, study, dataset)
    return study


def _images(rng: np.random.Generator, study: Planted, between: bool) -> dict[str, Slots]:
    """Draw the true cells; some groups have two images, one has none of one population."""
    images = {}
    for split, letter in (("train", "r"), ("val", "v"), ("test", "t")):
        study.split[split] = []
        for number in range(GROUPS if split != "train" else 1):
            for part in "ab"[: 2 if number in (1, 4) and split != "train" else 1]:
                stem = f"{letter}{number}{part}"
                treated = between and number >= 4
                count = int(rng.integers(5, 9)) if number != GROUPS - 1 else 0
                images[stem] = Slots(rng, count, larger=2 * treated)
                study.split[split].append(stem)
                study.groups[stem] = f"{letter}{number}"
                study.true[stem] = images[stem].truth
                areas = np.bincount(images[stem].truth.ravel())[1:]
                for label, area in enumerate(areas, 1):
                    size = "large" if area > 90 or rng.random() < 0.2 else "small"
                    name = ("treated" if treated else "control") if between else size
                    if not between and number == 2:
                        name = "small"
                    study.population[stem, label] = name
    return images


def _probabilities(levels: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    found = np.full(SHAPE, BACKGROUND)
    for level, mask in zip(LEVELS[::-1], levels[::-1]):
        found[mask] = level
    return found


def _codes(
    maps: Mapping[int, Mapping[str, NDArray[np.float64]]], stems: Sequence[str]
) -> tuple[dict[str, NDArray[np.uint16]], NDArray[np.float64]]:
    """Give each image as codes, and what each network predicts for each code."""
    stacked = np.stack([np.stack([own[stem] for own in maps.values()], -1) for stem in stems])
    rows, codes = np.unique(stacked.reshape(-1, len(maps)), axis=0, return_inverse=True)
    assert len(rows) <= CODES
    images = codes.reshape(len(stems), *SHAPE).astype(np.uint16)
    return dict(zip(stems, images)), rows


def _write_data(study: Planted, codes: Mapping[str, NDArray[np.uint16]]) -> None:
    for name in ("images", "masks"):
        (study.data / name).mkdir(parents=True)
    for stem, image in codes.items():
        tifffile.imwrite(study.data / "images" / f"{stem}.tif", image)
        mask = study.true[stem].astype(np.uint16)
        tifffile.imwrite(study.data / "masks" / f"{stem}.tif", mask)
    lines = ["image,label,track,population"]
    lines += [f"{stem},{label},,{name}" for (stem, label), name in study.population.items()]
    (study.data / "objects.csv").write_text("\n".join(lines) + "\n")
    split = {
        name: sorted({study.groups[stem] for stem in own}) for name, own in study.split.items()
    }
    content = {"pixel_size_um": PIXEL_UM, "groups": study.groups, "split": split}
    (study.data / "dataset.yaml").write_text(yaml.safe_dump(content))


def _write_checkpoint(
    study: Planted,
    dataset: DataSet,
    trial_id: str,
    own: TrialConfig,
    probabilities: NDArray[np.float64],
) -> None:
    """Write a table of logits, and what calibration found for it."""
    folder, rest = study.out / "checkpoints" / trial_id, np.full(CODES, BACKGROUND)
    rest[: len(probabilities)] = probabilities
    two = np.log(rest / (1 - rest))[None]
    three = np.log(np.stack([1 - rest - 1e-9, rest, np.full(CODES, 1e-9)]))
    logits = torch.from_numpy(two if own.task == "semantic2" else three).float()
    checkpoint.save(
        folder,
        {"logits": logits},
        own,
        Scaling(0.0, 1.0, Intensities(0.0, CODES - 1.0, 16)),
        data={"fingerprint": dataset.fingerprint},
        metrics={},
    )
    seed = "seed_depth" if own.task == "semantic2" else "seed_threshold"

    def at(threshold: float) -> dict[str, float]:
        depth = 9.0 if own.task == "semantic2" else 0.5
        return {"threshold": threshold, seed: depth, "min_size": MIN_SIZE, "smoothing": 0.0}

    def found(best: float, held_out: Sequence[float]) -> dict[str, Any]:
        groups = sorted({study.groups[stem] for stem in study.split["val"]})
        return {
            "default": at(DEFAULT),
            "calibrated": at(best),
            "held_out": {name: at(held_out[int(name[1:]) % 2]) for name in groups},
            "at_bound": [],
            "ranges": {name: [0.011, 0.987] for name in at(best)},
            "untuned": at(0.99),
            "default_score": 0.123,
            "score": 0.987,
        }

    manifest = json.loads((folder / "checkpoint.json").read_text())
    content = {
        "format": FORMAT,
        "weights": manifest["weights"]["sha256"],
        "data": dataset.fingerprint,
        "images": [item.stem for item in dataset.subset("val")],
        "budget": BUDGET,
        "seed": 0,
        "flips": False,
        "inference": WHOLE.state(),
        **found(CALIBRATED, HELD_OUT),
        "given_back": found(GAP, (GAP_HELD_OUT, GAP_HELD_OUT)),
    }
    write_json(folder / CALIBRATION, content)


def _write_tables(rng: np.random.Generator, study: Planted, dataset: DataSet) -> None:
    """Write the tables of the sweep, with numbers that are all different."""
    records, epochs, images = {}, [], []
    for number, (trial_id, one) in enumerate(study.trials.items()):
        fields = one.config.model_dump(mode="json")
        best = 2 + number % 3
        metrics = {
            "val_dataset_iou": one.val_iou,
            "val_image_iou": one.val_iou - 0.1 + 0.001 * number,
            "test_dataset_iou": 1.3 - one.val_iou + 0.0013 * number,
            "test_image_iou": 1.2 - one.val_iou,
            "parameters_m": 11.34 + 7.7 * number,
            "best_epoch": best,
            "epochs": 5,
            "train_seconds": 611.4 + 83.7 * number,
            "peak_memory_mb": 1234.0 + number,
        }
        record = {"status": "done", "config": fields, "metrics": metrics}
        records[trial_id] = record
        for epoch in range(1, 6):
            train = round(0.31 / epoch + 0.0107 * number, 6)
            row = {"trial_id": trial_id, "epoch": epoch, "train_loss": train}
            row |= {
                "val_loss": train + 0.05,
                "val_dataset_iou": one.val_iou - 0.01 * abs(epoch - best),
            }
            epochs.append(row | {"val_image_iou": 0.5, "seconds": 9.9})
        for split in ("val", "test"):
            for stem in study.split[split]:
                union = int(rng.integers(700, 1100)) if study.true[stem].any() else 0
                share = one.val_iou + rng.normal(0, 0.03) - 0.2 * (split == "test")
                row = {"trial_id": trial_id, "split": split, "image": stem}
                row |= {"group": study.groups[stem], "intersection": round(share * union)}
                images.append(row | {"union": union})
    trials = [{"trial_id": i, "config": r["config"]} for i, r in records.items()]
    plan = {
        "recipe": RECIPE,
        "space": "planted",
        "commands": ["python -m sweep.run planted"],
        "data": {
            "path": str(study.data),
            "fingerprint": dataset.fingerprint,
            "options": dataset.options.model_dump(mode="json"),
            "split": {name: list(stems) for name, stems in dataset.parts.items()},
            "groups": study.groups,
        },
        "trials": trials,
    }
    write_json(study.out / "plan.json", plan)
    rows = leaderboard.write_tables(study.out, plan, records)
    study.board = pd.DataFrame(rows)
    study.history, study.per_image = pd.DataFrame(epochs), pd.DataFrame(images)
    study.history.to_csv(study.out / "history.csv", index=False)
    study.per_image.to_csv(study.out / "per_image.csv", index=False)
