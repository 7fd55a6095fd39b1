"""Synthetic evidence: everything an analysis could find, with nothing trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from analysis.evaluation.outcomes import CAUSES
from analysis.evaluation.selection import select
from analysis.evidence import FEATURES, IOUS, TRUTH, Crop, Evidence, Picture, compared
from analysis.study.comparisons import comparisons
from trainables.config import ARCHITECTURES, PAPER_ENCODERS

METHODS = {
    "UnetPlusPlus resnest269, 2-class + watershed": ("semantic2", "2-class + watershed", 0.00),
    "Unet resnet152, 3-class": ("semantic3", "3-class", 0.01),
    "StarDist": ("stardist", "StarDist", 0.03),
    "PAN vgg19, 2-class + watershed": ("semantic2", "2-class + watershed", 0.12),
}
"""Name of each method: task, way, and how much worse than the best."""
PIXEL = 0.323


def cells(
    rng: np.random.Generator, shape: tuple[int, int], count: int, radius: float = 9.0
) -> NDArray[np.int32]:
    """Give a label image of round cells, some touching."""
    rows, columns = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for label in range(1, count + 1):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        side = radius * rng.uniform(0.75, 1.3)
        inside = np.hypot((rows - row) * rng.uniform(0.9, 1.1), columns - column) < side
        labels[inside & (labels == 0)] = label
    return labels


def seen(rng: np.random.Generator, labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Give the brightfield-like image of `labels`."""
    depth = ndimage.distance_transform_edt(labels > 0)
    ring = 0.5 - 0.3 * ((depth > 0) & (depth < 2)) + 0.3 * ((depth >= 2) & (depth < 5))
    image = ndimage.gaussian_filter(ring, 1.0) + rng.normal(0, 0.05, labels.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def worse(
    rng: np.random.Generator, labels: NDArray[np.int32], loss: float, grow: int = 0
) -> NDArray[np.int32]:
    """Give what a method would find: cells lost, shifted by a pixel, grown."""
    kept = labels * ~np.isin(labels, rng.permutation(labels.max() + 1)[: int(loss * 60)])
    moved = np.roll(kept, (int(rng.integers(-1, 2)), int(rng.integers(-1, 2))), (0, 1))
    return (ndimage.grey_dilation(moved, size=(2 * grow + 1,) * 2) if grow else moved).astype(
        np.int32
    )


def make_board(
    rng: np.random.Generator,
    architectures: tuple[str, ...] = ARCHITECTURES,
    encoders: tuple[str, ...] = PAPER_ENCODERS,
    seeds: int = 1,
) -> pd.DataFrame:
    """Give a leaderboard: all candidates of 2 classes, a few of 3, StarDist, and failures."""
    wanted = [("semantic2", a, e, s) for a in architectures for e in encoders for s in range(seeds)]
    if len(architectures) > 1:
        wanted += [("semantic3", a, "resnet152", 0) for a in ("Unet", "UnetPlusPlus", "FPN")]
        wanted += [("stardist", "StarDist", "", 0)]
    rows: list[dict[str, Any]] = []
    for number, (task, architecture, encoder, seed) in enumerate(wanted):
        failed = number == 13
        score = rng.uniform(0.75, 0.92)
        trial = "-".join(filter(None, (task, architecture, encoder, f"s{seed}", f"{number:04x}")))
        rows.append(
            {
                "trial_id": trial,
                "task": task,
                "architecture": architecture,
                "encoder": encoder or "none",  # as stardist's own model has it
                "seed": seed,
                "learning_rate": 0.001,
                "loss": "dice",
                "augmentation": "light",
                "batch_size": 16,
                "status": "failed" if failed else "done",
                "parameters_m": rng.uniform(20, 180),
                "val_dataset_iou": np.nan if failed else score,
                "val_image_iou": np.nan if failed else score - 0.01,
                "test_dataset_iou": np.nan if failed else score - 0.02,
                "test_image_iou": np.nan if failed else score - 0.03,
                "best_epoch": np.nan if failed else 50,
                "epochs": np.nan if failed else 60,
                "train_seconds": np.nan if failed else rng.uniform(900, 2900),
                "peak_memory_mb": rng.uniform(2000, 20000),
                "error": "the loss is NaN at epoch 3 <script>alert(1)</script>" if failed else None,
                "checkpoint": f"checkpoints/{trial}",
                "wandb_id": None,
            }
        )
    board = pd.DataFrame(rows)
    return board.sort_values("val_dataset_iou", ascending=False, ignore_index=True)


def make_history(rng: np.random.Generator, board: pd.DataFrame, epochs: int = 60) -> pd.DataFrame:
    """Give the losses of every trial that is done."""
    parts = []
    epoch = np.arange(1, epochs + 1)
    for trial in board.loc[board["status"] == "done", "trial_id"]:
        floor, speed = rng.uniform(0.015, 0.06), rng.uniform(4, 12)
        train = floor + 0.6 * np.exp(-epoch / speed) + rng.normal(0, 0.003, epochs)
        val = train + rng.uniform(0.02, 0.06) + rng.normal(0, 0.01, epochs)
        columns = {"trial_id": trial, "epoch": epoch, "train_loss": np.abs(train)}
        parts.append(
            pd.DataFrame(columns).assign(
                val_loss=np.where(epoch % 2 == 0, val, np.nan),
                val_dataset_iou=0.9 - val,
                val_image_iou=0.88 - val,
                seconds=20.0,
            )
        )
    return pd.concat(parts, ignore_index=True)


def make_methods(board: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Give the analysed trials; the first has two seeds."""
    rows = []
    for rank, name in enumerate(names):
        task, way, loss = METHODS[name]
        done = board[(board["task"] == task) & (board["status"] == "done")]
        for seed in range(2 if rank == 0 and len(done) > 1 else 1):
            trial = done.iloc[min(rank + seed * 5, len(done) - 1)]
            score = 0.74 - loss - 0.004 * seed
            rows.append(
                {
                    "method": name,
                    "trial_id": trial["trial_id"],
                    "task": task,
                    "architecture": trial["architecture"],
                    "encoder": trial["encoder"],
                    "seed": seed,
                    "way": way,
                    "representative": seed == 0,
                    "default": json.dumps({"threshold": 0.5, "min_size": 20}),
                    "calibrated": json.dumps({"threshold": 0.42, "min_size": 31}),
                    "val_score": score,
                    "command": f"python -m analysis.segment --model runs/x/checkpoints/{rank}",
                }
            )
    return pd.DataFrame(rows)


def make_standing(methods: pd.DataFrame, units: int = 8) -> pd.DataFrame:
    """Give the validation scores of each unit: by its difficulty, and a little by chance."""
    rng = np.random.default_rng(1)
    difficulty = np.linspace(-spread(units), spread(units), units)
    rows = []
    for method in methods["method"].unique():
        scores = methods.loc[methods["method"] == method, "val_score"].to_numpy()
        chance = rng.normal(0, 0.02, units)
        for seed in range(len(scores)):
            values = scores[0] + difficulty + chance - chance.mean()
            rows += [(method, seed, f"field{n}", value) for n, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["method", "seed", "unit", "score"])


def placed(methods: pd.DataFrame, standing: pd.DataFrame) -> pd.DataFrame:
    """Give the methods with what their validation scores say."""
    places = select(standing)
    names = {"score": "val_score", "low": "val_low", "high": "val_high", "tied": "tied"}
    names |= {"units": "val_units", "lowest": "val_lowest", "highest": "val_highest"}
    columns = {
        column: [getattr(places[method], name) for method in methods["method"]]
        for name, column in names.items()
    }
    columns |= {f"measured_{end}": columns[f"val_{end}"] for end in ("low", "high")}
    return methods.assign(**columns)


def spread(units: int) -> float:
    """Give how far the outermost units lie from their mean."""
    return 0.03 if units > 1 else 0.0


def make_scores(methods: pd.DataFrame, units: int = 8) -> pd.DataFrame:
    """Give scores that fall with the overlap and gain from calibration."""
    rows = []
    for row in methods.to_dict("records"):
        for split in ("val", "test"):
            for parameters in ("default", "calibrated"):
                best = row["val_score"] + (0.0 if parameters == "calibrated" else -0.05)
                best -= 0.004 * row["seed"]
                values = {
                    f"ap_{round(100 * t)}": best + 0.25 - 1.2 * (t - 0.5) ** 1.5 for t in IOUS
                }
                values |= {"ap_mean": best, "iou": best + 0.14, "f1_50": best + 0.2}
                values |= {"precision_50": best + 0.21, "recall_50": best + 0.19, "pq": best}
                values |= {"seg": best, "masd": 2.31, "hd95": 4.8}
                for metric, value in values.items():
                    columns = {"method": row["method"], "trial_id": row["trial_id"]}
                    columns |= {"split": split, "parameters": parameters, "metric": metric}
                    counts = {"units": units, "images": 2 * units}
                    counts |= {"true_objects": 420, "predicted_objects": 411}
                    rows.append(columns | {"value": value} | counts)
    return pd.DataFrame(rows)


def make_units(scores: pd.DataFrame, agreement: pd.DataFrame, units: int = 8) -> pd.DataFrame:
    """Give each unit's own scores and biases, spread evenly about the method's."""
    first = scores.drop_duplicates("method").set_index("method")["trial_id"]
    biases = pd.DataFrame(
        {
            "method": agreement["method"],
            "trial_id": agreement["method"].map(first),
            "split": "test",
            "parameters": "calibrated",
            "metric": "bias_" + agreement["feature"],
            "value": agreement["relative_bias"],
        }
    )
    keys = ["method", "trial_id", "split", "parameters", "metric", "value"]
    every = pd.concat([scores[keys], biases], ignore_index=True)
    offsets = np.linspace(-spread(units), spread(units), units)
    parts = [
        every.assign(unit=f"field{n}", value=every["value"] + d) for n, d in enumerate(offsets)
    ]
    return pd.concat(parts, ignore_index=True)


def make_objects(
    rng: np.random.Generator, methods: pd.DataFrame, images: int = 8, pixel: float | None = PIXEL
) -> pd.DataFrame:
    """Give objects of the truth and each method; the second method finds cells too large."""
    chosen = methods[methods["representative"]]
    named = [(None, TRUTH, 1.0)]
    for rank, (trial, method) in enumerate(zip(chosen["trial_id"], chosen["method"])):
        named.append((trial, method, 1 + 0.04 * (rank == 1)))
    parts = []
    for image in range(images):
        radius = rng.normal(9, 1.2, 50) + rng.normal(0, 0.3)
        for trial, method, scale in named:
            found = np.abs(radius * scale + rng.normal(0, 0.3, 50))
            found[0] *= 4  # an outlier: two cells taken as one
            area = np.pi * found**2
            perimeter = 2 * np.pi * found * rng.uniform(1.0, 1.1, 50)
            table = pd.DataFrame(
                {
                    "trial_id": trial,
                    "method": method,
                    "image": f"t{image:03d}",
                    "group": f"field{image}",
                    "split": "test",
                    "label": np.arange(1, 51),
                    "matched_label": np.arange(1, 51),
                    "iou": rng.uniform(0.6, 0.95, 50),
                    "track": np.arange(1, 51),
                    "population": np.where(np.arange(50) % 2, "large", "small"),
                    "overlap_label": np.arange(1, 51),
                    "outcome": "found",
                    "at_border": np.arange(50) == 49,
                    "left_out": np.arange(50) == 49,
                    "x": rng.uniform(0, 224, 50),
                    "y": rng.uniform(0, 224, 50),
                    "area": area,
                    "perimeter": perimeter,
                    "circularity": 4 * np.pi * area / perimeter**2,
                    "solidity": np.clip(rng.normal(0.96, 0.02, 50), 0, 1),
                    "radius": found,
                    "shape_index": perimeter / np.sqrt(area),
                    "parts": 1,
                }
            )
            if pixel is not None:
                table["area_um2"] = area * pixel**2
                table["perimeter_um"] = perimeter * pixel
                table["radius_um"] = found * pixel
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


def make_errors(methods: pd.DataFrame, images: int = 8) -> pd.DataFrame:
    """Give what became of 50 true cells in each image; each method misses one more."""
    rows = []
    for rank, method in enumerate(methods.loc[methods["representative"], "method"]):
        counts = {"missed": (rank, 0), "invented": (0, 1), "merged": (4, 2), "split": (1, 2)}
        counts["boundary"] = (45 - rank, 45 - rank)
        for image in range(images):
            for cause in CAUSES:
                true, pred = counts[cause]
                right = {"merged": 1, "boundary": 43 - rank}.get(cause, 0)
                row = {"cause": cause, "true_cells": true, "predicted_cells": pred}
                row |= {f"tp_{round(100 * t)}": max(0, right - 4 * i) for i, t in enumerate(IOUS)}
                row |= {"method": method, "image": f"t{image:03d}", "group": f"field{image}"}
                rows.append(row | {"split": "test"})
    return pd.DataFrame(rows)


def make_frames(objects: pd.DataFrame) -> pd.DataFrame:
    """Give each image as the only one of its field: of no film."""
    table = objects[["image", "group"]].drop_duplicates().set_axis(["image", "sequence"], axis=1)
    return table.assign(frame=pd.array([pd.NA] * len(table), dtype="Int64"))


def make_agreement(objects: pd.DataFrame, units: int = 8) -> pd.DataFrame:
    """Give the bias of each method's features."""
    rows = []
    for method in dict.fromkeys(objects["method"]):
        if method == TRUTH:
            continue
        for number, feature in enumerate(FEATURES):
            mean = objects.loc[objects["method"] == TRUTH, feature].mean()
            relative = (0.08 if "3-class" in method else -0.01) / (1 + number)
            row = {"method": method, "feature": feature, "n": 380, "units": units}
            row |= {"bias": relative * mean, "bias_low": (relative - 0.02) * mean}
            row |= {"bias_high": (relative + 0.02) * mean, "sd": 0.1 * mean}
            row |= {"loa_low": -0.2 * mean, "loa_high": 0.2 * mean, "relative_bias": relative}
            row |= {"relative_low": relative - 0.02, "relative_high": relative + 0.02}
            rows.append(row | {"ccc": 0.93, "ccc_low": 0.9, "ccc_high": 0.95})
    return pd.DataFrame(rows)


def make_pictures(rng: np.random.Generator, methods: list[str], images: int = 3) -> list[Picture]:
    """Give whole images with the instances of each method."""
    pictures = []
    for number in range(images):
        truth = cells(rng, (180, 240), 45)
        labels = {
            name: worse(rng, truth, METHODS[name][2], grow=int("3-class" in name))
            for name in methods
        }
        pictures.append(Picture(f"t{number:03d}", "test", seen(rng, truth), truth, labels))
    return pictures


def make_crop(rng: np.random.Generator, board: pd.DataFrame) -> Crop:
    """Give one window through all networks that are done."""
    truth = cells(rng, (160, 160), 26, 12.0)
    probabilities = {}
    for trial in board.loc[board["status"] == "done", "trial_id"]:
        noise = ndimage.gaussian_filter(rng.normal(0, 1, truth.shape), 6) * rng.uniform(1, 5)
        smooth = ndimage.gaussian_filter((truth > 0).astype(float), rng.uniform(0.7, 3))
        probabilities[trial] = np.clip(smooth + noise * 0.4, 0, 1).astype(np.float32)
    return Crop("t000", (32, 64), seen(rng, truth), truth, probabilities)


def make_evidence(
    out: Path = Path("runs/paper"),
    *,
    names: list[str] | None = None,
    pixel: float | None = PIXEL,
    seeds: int = 1,
    units: int = 8,
    **board: Any,
) -> Evidence:
    """Give full evidence; `names` are keys of `METHODS`, `board` goes to `make_board`.

    There are `units` independent groups of images, for validation as for test.
    """
    rng = np.random.default_rng(0)
    names = list(METHODS) if names is None else names
    leaderboard = make_board(rng, seeds=seeds, **board)
    methods = make_methods(leaderboard, names)
    standing = make_standing(methods, units)
    methods = placed(methods, standing)
    objects = make_objects(rng, methods, images=units, pixel=pixel)
    scores, agreement = make_scores(methods, units), make_agreement(objects, units)
    return Evidence(
        out=out,
        plan={
            "space": "paper",
            "commands": ["python -m sweep.run paper"],
            "created": "2026-01-01T00:00:00+00:00",
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "versions": {"python": "3.11.7", "torch": "2.7.0"},
            "data": {
                "path": "data",
                "fingerprint": "ab12" * 16,
                "split": {"train": ["t100"], "val": ["t200"], "test": ["t000", "t001"]},
                "notes": ["the masks are binary: connected components are taken as cells"],
            },
        },
        leaderboard=leaderboard,
        candidates=leaderboard.groupby(["task", "architecture"], as_index=False)[
            ["val_dataset_iou", "test_dataset_iou"]
        ].mean(),
        history=make_history(rng, leaderboard),
        methods=methods,
        standing=standing,
        scores=scores,
        units=make_units(scores, agreement, units),
        objects=objects,
        errors=make_errors(methods, units),
        frames=make_frames(objects),
        statistics=comparisons(
            compared(objects), recommended=names[0] if names else None, resamples=499
        ),
        agreement=agreement,
        noise=make_noise(),
        crop=make_crop(rng, leaderboard),
        pictures=make_pictures(rng, names),
        missing=["No tracks are known: nothing is said of single cells over time."],
        settings={
            "convention": "trackmate",
            "pixel_size_um": pixel,
            "unit": "group",
            "top": 4,
            "flips": False,
            "versions": {"scikit-image": "0.26.0"},
            "seeds": [0],
            "budget": 100,
            "data": "data",
            "fingerprint": "ab12" * 16,
            "command": "python -m analysis.run runs/paper --top 4",
        },
    )


def empty(evidence: Evidence) -> Evidence:
    """Give `evidence` of a sweep of which nothing could be analysed."""
    none = {
        name: getattr(evidence, name).iloc[:0]
        for name in (
            "methods",
            "standing",
            "scores",
            "units",
            "objects",
            "errors",
            "statistics",
            "agreement",
            "noise",
        )
    }
    return replace(
        evidence,
        **none,
        history=pd.DataFrame(),
        candidates=pd.DataFrame(),
        crop=None,
        pictures=[],
        missing=["No trial is done yet: nothing could be analysed."],
    )


def make_noise() -> pd.DataFrame:
    """Give the error of pixels alone, relative to the value of a disc, by feature and radius."""
    rows = []
    for number, feature in enumerate(FEATURES):
        for radius in (6.0, 9.0, 12.0):
            bias = 0.02 / (1 + number)
            row = {"feature": feature, "shape": "disc", "radius": radius}
            rows.append(row | {"relative_bias": bias, "relative_sd": 0.01})
    return pd.DataFrame(rows)
