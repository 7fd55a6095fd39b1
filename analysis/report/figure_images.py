"""Figures that are made of pixels: heat maps, networks side by side, overlays."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from analysis.evidence import TRUTH, Evidence, Picture
from analysis.report.tables import chosen_trials, in_order, letters, representatives
from trainables.config import ARCHITECTURES, PAPER_ENCODERS

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0
"""Widths in inches."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, told apart by the colour-blind; yellow left out, too pale for lines."""
RIGHT, EXTRA, LOST = (0.72, 0.80, 0.86), (0.835, 0.369, 0.0), (0.0, 0.447, 0.698)
"""Colours of pixels that both have (pale: agreement is the background), that only the first has
(Okabe and Ito's vermilion), that only the second has (their blue)."""
SIDE = 360
"""Pixels of the largest window that is printed: more, and a border of one pixel is lost."""
LARGEST = 4
"""Methods at most in one figure of overlays."""


TASKS = ("semantic2", "semantic3", "stardist")
TRUTH_LINE, HALF_LINE = "white", "black"
"""Outlines on a probability map whose colours are neither: they differ by lightness alone."""
PROBABILITY = ListedColormap(colormaps["viridis"](np.linspace(0, 0.7, 256)), "probability")


MOST_PIXELS = 4_000_000
"""Of all pictures of the viewer together: the page stays below about 15 MB."""
SMALLEST = 256
"""Side in pixels of the smallest window worth showing: rather fewer pictures than smaller ones."""


def task_name(task: str) -> str:
    """Return what a reader calls a task."""
    return {"semantic2": "2 classes", "semantic3": "3 classes", "stardist": "StarDist"}[task]


def draw_heat_map(evidence: Evidence) -> Figure | None:
    """Figure 7: data-set IoU on the test images by architecture and encoder, one map per task."""
    board = evidence.leaderboard
    if board.empty or board["test_dataset_iou"].isna().all():
        return None
    best = chosen_trials(board).fillna({"encoder": ""})
    board = board.fillna({"encoder": ""})
    maps = {}
    for task in in_order(board["task"], TASKS):
        part = board[board["task"] == task]
        rows = in_order(part["architecture"], ARCHITECTURES)
        maps[task] = rows, in_order(part["encoder"], PAPER_ENCODERS)
    # places in inches: cells of all maps are alike, small maps stand beside the large one
    margin = 0.12 + 0.065 * max(len(name) for rows, _ in maps.values() for name in rows)
    count = sum(len(columns) for _, columns in maps.values())
    side = min(0.62, (TWO_COLUMNS - 0.75 - margin * len(maps)) / count)
    height = 0.27 * max(4, *(len(rows) for rows, _ in maps.values()))
    size = side * count + margin * len(maps) + 0.75, height + 1.15
    figure = Figure(figsize=size)
    values = 100 * best["test_dataset_iou"].dropna()
    low, high = values.min(), max(values.max(), values.min() + 1)
    drawn, left = None, 0.0
    for task, (rows, columns) in maps.items():
        left += margin
        box = (left, 0.9 + height - 0.27 * len(rows), side * len(columns), 0.27 * len(rows))
        ax = figure.add_axes(_share(box, size))
        left += box[2]
        table = best[best["task"] == task].set_index(["architecture", "encoder"])
        index = pd.MultiIndex.from_product([rows, columns])
        found = 100 * table["test_dataset_iou"].reindex(index).to_numpy(float)
        cells = found.reshape(len(rows), len(columns))
        drawn = ax.imshow(cells, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        _heat_cells(ax, cells, board[board["task"] == task], rows, columns, low, high)
        ax.set_xticks(range(len(columns)), [name or "own" for name in columns])
        ax.tick_params(axis="x", rotation=35)
        for tick in ax.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(rows)), rows)
        ax.set_title(task_name(task))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    if drawn is not None:
        place = figure.add_axes(_share((left + 0.12, 0.9, 0.09, height), size))
        bar = figure.colorbar(drawn, cax=place)
        bar.set_label("Data-set IoU, test images (%)")
        bar.outline.set_visible(False)
    return figure


def _share(
    box: tuple[float, float, float, float], size: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Turn left, bottom, width and height in inches into shares of the figure."""
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]


def _heat_cells(
    ax: Axes,
    cells: Any,
    board: pd.DataFrame,
    rows: list[str],
    columns: list[str],
    low: float,
    high: float,
) -> None:
    """Write the numbers, frame the best, hatch what is missing and say why."""
    known = {(r["architecture"], r["encoder"]): r["status"] for r in board.to_dict("records")}
    for (i, j), value in np.ndenumerate(cells):
        if np.isnan(value):
            ax.add_patch(
                Rectangle((j - 0.5, i - 0.5), 1, 1, fc="0.96", ec="0.75", hatch="////", lw=0)
            )
            word = known.get((rows[i], columns[j]), "–")
            box = {"fc": "white", "ec": "none", "pad": 0.8}
            ax.text(j, i, word, ha="center", va="center", fontsize=7, color="0.25", bbox=box)
            continue
        colour = "white" if (value - low) / (high - low) < 0.6 else "black"
        best = value == np.nanmax(cells) and cells.size > 1
        weight = "bold" if best else "normal"
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", color=colour, weight=weight)
        if best:
            ax.add_patch(
                Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, ec=COLOURS[1], lw=1.6)
            )


def draw_networks(evidence: Evidence, task: str) -> Figure | None:
    """Figure 8: one window through every network of a task, architectures by encoders."""
    crop = evidence.crop
    if crop is None or evidence.leaderboard.empty:
        return None
    board = evidence.leaderboard.fillna({"encoder": ""})
    board = board[(board["task"] == task) & board["trial_id"].isin(crop.probabilities)]
    if board.empty:
        return None
    best = chosen_trials(board)
    trials = {(r["architecture"], r["encoder"]): r["trial_id"] for r in best.to_dict("records")}
    rows = in_order(best["architecture"], ARCHITECTURES)
    columns = in_order(best["encoder"], PAPER_ENCODERS)
    # architectures by encoders; of one encoder, the architectures follow the image in reading order
    alone = len(columns) == 1
    wide = min(4, len(rows) + 2) if alone else len(columns)
    high = -(-(len(rows) + 2) // wide) if alone else len(rows) + 1
    gap, left, foot = 0.05, 0.03 if alone else 0.22, 0.42  # inches
    title = 0.2 if alone else 0.0  # of every row; else only above the first and the second
    side = min((TWO_COLUMNS - left) / wide - gap, 8.2 / high - gap, 1.7)
    size = left + wide * (side + gap), foot + high * (side + gap + title) + 0.4 - title
    figure = Figure(figsize=size)

    def place(i: int, j: int) -> Axes:
        bottom = foot + (high - 1 - i) * (side + gap + title) + (0.2 if i == 0 and not alone else 0)
        ax = figure.add_axes(_share((left + j * (side + gap), bottom, side, side), size))
        ax.set_axis_off()
        return ax

    truth = outlines(crop.truth)
    _show(place(0, 0), crop.pixels, "Image")
    _show(place(0, 1), crop.pixels, "Ground truth", truth)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            ax = place(*divmod(i + 2, wide)) if alone else place(i + 1, j)
            if alone:
                ax.set_title(row, pad=3)
            elif i == 0:
                ax.set_title(column or "own encoder", pad=3)
            if j == 0 and not alone:
                ax.text(
                    -0.06, 0.5, row, rotation=90, ha="right", va="center", transform=ax.transAxes
                )
            if (row, column) not in trials:
                ax.text(0.5, 0.5, "–", ha="center", va="center", transform=ax.transAxes)
                continue
            probability = crop.probabilities[trials[row, column]]
            _show(ax, probability, ax.get_title(), truth, PROBABILITY, TRUTH_LINE)
            half = [_polygon(c) for c in find_contours(np.pad(probability, 1), 0.5)]
            ax.add_collection(LineCollection(half, colors=HALF_LINE, linewidths=0.6))
    handles = [
        Line2D([], [], color=TRUTH_LINE, label="ground truth"),
        Line2D([], [], color=HALF_LINE, label="probability 0.5"),
        Patch(fc=PROBABILITY(0.0), label="probability 0"),
        Patch(fc=PROBABILITY(1.0), label="probability 1"),
    ]
    # white lines need a background in the legend too
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=4 if size[0] > 4.5 else 2,
        frameon=True,
        facecolor="0.72",
        edgecolor="none",
        borderpad=0.35,
    )
    return figure


def _show(
    ax: Axes,
    pixels: NDArray[Any],
    title: str,
    lines: list[NDArray[Any]] | None = None,
    colours: str | ListedColormap = "gray",
    line: str = "#E69F00",
) -> None:
    """Show pixels between 0 and 1, and outlines on them."""
    high, wide = pixels.shape[:2]
    ax.imshow(pixels, cmap=colours, vmin=0, vmax=1, interpolation="none")
    if lines:
        ax.add_collection(LineCollection(lines, colors=line, linewidths=0.8))
    ax.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
    ax.set_title(title, pad=3)


def outlines(labels: NDArray[np.integer]) -> list[NDArray[Any]]:
    """Return the outline of every label as (n, 2) points, x first."""
    lines = []
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        top, left = rows.min() - 1, columns.min() - 1
        part = labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == label
        for contour in find_contours(np.pad(part, 1).astype(float), 0.5):
            lines.append(_polygon(contour, 0) + np.array([left, top]))
    return lines


def _polygon(contour: NDArray[Any], pad: int = 1) -> NDArray[Any]:
    """Thin out a contour of a padded array to what a print can show; x first."""
    points: NDArray[Any] = approximate_polygon(contour, 0.25)[:, ::-1] - pad
    return points


def border(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the pixels of each label that touch another label or the background."""
    inner = np.pad(labels, 1, mode="edge")
    differs = np.zeros(labels.shape, bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        shifted = inner[rows : rows + labels.shape[0], columns : columns + labels.shape[1]]
        differs |= shifted != labels
    return differs & (labels > 0)


def densest_window(truth: NDArray[np.integer], side: int) -> tuple[slice, slice]:
    """Return the window of at most `side` pixels with most foreground: chosen without a method."""
    high, wide = truth.shape
    rows, columns = min(side, high), min(side, wide)
    total = np.pad((truth > 0).astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = total[rows:, columns:] - total[:-rows, columns:]
    inside = inside - total[rows:, :-columns] + total[:-rows, :-columns]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return slice(int(top), int(top) + rows), slice(int(left), int(left) + columns)


def overlay(
    pixels: NDArray[np.floating], first: NDArray[Any], second: NDArray[Any]
) -> NDArray[np.float64]:
    """Colour the pixels that both, only the first and only the second label image have."""
    image = np.repeat(0.55 * np.clip(pixels, 0, 1)[..., None], 3, axis=2).astype(np.float64)
    has, other = first > 0, second > 0
    for where, colour in ((has & other, RIGHT), (has & ~other, EXTRA), (~has & other, LOST)):
        image[where] = 0.2 * image[where] + 0.8 * np.asarray(colour)
    return image


def pixel_iou(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the IoU of two foregrounds; NaN when both are empty."""
    union = ((first > 0) | (second > 0)).sum()
    return float(((first > 0) & (second > 0)).sum() / union) if union else float("nan")


def draw_overlays(evidence: Evidence) -> Figure | None:
    """Figure 10: each method against the ground truth, and the methods against each other."""
    if not evidence.pictures:
        return None
    picture = evidence.pictures[0]
    marks = letters(representatives(evidence))
    marks = {name: mark for name, mark in marks.items() if name in picture.labels}
    marks = dict(list(marks.items())[:LARGEST])
    if not marks:
        return None
    window = densest_window(picture.truth, SIDE)
    pairs = [(f"{mark} vs truth", name, "") for name, mark in marks.items()]
    pairs += [(f"{marks[a]} vs {marks[b]}", a, b) for a, b in combinations(marks, 2)]
    count = len(pairs) + 1
    wide = min(4, count)
    high = -(-count // wide)
    side = TWO_COLUMNS / max(wide, 3)
    shape = picture.truth[window].shape
    tall = side * shape[0] / shape[1]
    keys = 3 if wide > 2 else 1
    extra = 0.2 + 0.16 * (3 // keys) + 0.14 * len(marks)
    figure = Figure(figsize=(side * wide, (tall + 0.22) * high + extra))
    grid = figure.subplots(high, wide, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    _show(
        grid.flat[0], picture.pixels[window], "Image, ground truth", outlines(picture.truth[window])
    )
    for ax, (title, a, b) in zip(grid.flat[1:], pairs):
        first, second = picture.labels[a], picture.labels[b] if b else picture.truth
        image = overlay(picture.pixels[window], first[window], second[window])
        ax.imshow(image, interpolation="none")
        ax.set_title(f"{title}, IoU {pixel_iou(first[window], second[window]):.3f}", pad=3)
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(0.005, extra / height, 0.995, 1 - 0.2 / height, 0.03, 0.22 / tall)
    handles = [
        Patch(fc=RIGHT, label="both (true positive)"),
        Patch(fc=EXTRA, label="only the first (false positive)"),
        Patch(fc=LOST, label="only the second (false negative)"),
    ]
    legend = figure.legend(handles=handles, loc="lower center", ncols=keys, columnspacing=1.2)
    below = (0.08 + 0.14 * len(marks)) / height
    legend.set_bbox_to_anchor((0.5, below), figure.transFigure)
    names = "\n".join(f"{mark}: {textwrap.shorten(n, 90)}" for n, mark in marks.items())
    figure.text(0.01, below, names, va="top", fontsize=7, linespacing=1.25)
    return figure


def viewer_pictures(pictures: Sequence[Picture]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the pictures of the page's viewer as PNG data URIs, and what was cut from them.

    Each has a grey `base` and, of the truth and each method, transparent `layers`: the outlines,
    and of methods the pixels that differ from the truth. Large pictures are cut to the window
    with most true foreground, never scaled: a pixel on the page is a pixel of the image.
    """
    shown, notes = list(pictures), []
    most = MOST_PIXELS // SMALLEST**2
    if len(shown) > most:
        notes.append(f"The viewer has the first {most} of {len(shown)} pictures.")
        shown = shown[:most]
    area = sum(picture.truth.size for picture in shown)
    side = max((max(picture.truth.shape) for picture in shown), default=0)
    while area > MOST_PIXELS and side > SMALLEST:
        side = max(SMALLEST, int(side * 0.9))
        area = sum(min(side, h) * min(side, w) for h, w in (p.truth.shape for p in shown))
    made: list[dict[str, Any]] = []
    for picture in shown:
        window = densest_window(picture.truth, side)
        high, wide = picture.truth[window].shape
        truth = picture.truth[window]
        layers = {TRUTH: {"outlines": _layer({"#56B4E9": border(truth)}), "errors": ""}}
        for name, labels in picture.labels.items():
            found = labels[window]
            extra, lost = (found > 0) & (truth == 0), (found == 0) & (truth > 0)
            layers[name] = {
                "outlines": _layer({"#E69F00": border(found)}),
                "errors": _layer({"#D55E00": extra, "#0072B2": lost}),
            }
        said = f"{wide} × {high} pixels"
        if (high, wide) != picture.truth.shape:
            whole = f"{picture.truth.shape[1]} × {picture.truth.shape[0]}"
            said += f" of {whole}, from row {window[0].start}, column {window[1].start}"
        made.append({"image": picture.image, "split": picture.split, "cut": said})
        made[-1] |= {"width": wide, "height": high, "layers": layers}
        made[-1]["base"] = _uri(_grey(picture.pixels[window]))
    if any(p.truth.shape != (m["height"], m["width"]) for p, m in zip(shown, made)):
        notes.append(
            f"To keep this page small, pictures are cut to windows of at most {side} × {side} "
            "pixels: those with most true foreground. They are not scaled."
        )
    return made, notes


def _grey(pixels: NDArray[np.floating]) -> NDArray[np.uint8]:
    return (255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8)


def _layer(masks: dict[str, NDArray[np.bool_]]) -> str:
    """Paint masks with a colour each on a transparent picture."""
    index = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for number, mask in enumerate(masks.values(), 1):
        index[mask] = number
    return _uri(index, ["#000000", *masks])


def _uri(pixels: NDArray[np.uint8], palette: list[str] | None = None) -> str:
    """Write grey pixels, or indices of a palette whose first colour is transparent, as PNG."""
    picture = Image.fromarray(pixels)
    options: dict[str, Any] = {}
    if palette:
        picture.putpalette([value for colour in palette for value in bytes.fromhex(colour[1:])])
        options["transparency"] = 0
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
