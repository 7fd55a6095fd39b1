"""Pictures for the page's viewer: whole images with the cells of each method."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from analysis.evaluation.outcomes import Outcomes, outcomes
from analysis.evidence import TRUTH, Picture
from analysis.morphology.border import border_labels
from analysis.report.figures.pixels import (
    OUTCOMES,
    border,
    dashes,
    left_out_pixels,
    outcome_pixels,
    worst_window,
)
from analysis.report.figures.style import CELL_LINE, OUTCOME_COLOURS, TRUE_LINE

MOST_PIXELS = 16_000_000
"""Pixels of all layers together, which keeps the viewer's part of the page below about 2 MB."""
SMALLEST = 256
"""Side in pixels of the smallest window worth showing; below it, pictures are left out instead."""
Place = tuple[slice, slice]


def viewer_pictures(pictures: Sequence[Picture]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return pictures as data URIs, and notes that say what was left out.

    Each picture has a grey `base` (WebP) and transparent `layers` (PNG) for the truth and each
    method: the outlines (dashed for cells that comparisons of features leave out), and for methods
    also the cells in the colours of their outcomes, and how many of each there are: true cells,
    but of invented ones the predicted cells. Large pictures are cropped to the window with the
    most errors of all methods and never scaled: a pixel on the page is a pixel of the image.
    """
    shown, notes = list(pictures), []
    layers_each = max((2 * len(picture.labels) + 2 for picture in shown), default=1)
    pixels = MOST_PIXELS // layers_each  # of all pictures together
    most = max(1, pixels // SMALLEST**2)
    if len(shown) > most:
        notes.append(f"The viewer shows the first {most} of {len(shown)} pictures.")
        shown = shown[:most]
    area = sum(picture.truth.size for picture in shown)
    side = max((max(picture.truth.shape) for picture in shown), default=0)
    while area > pixels and side > SMALLEST:
        side = max(SMALLEST, int(side * 0.9))
        area = sum(min(side, h) * min(side, w) for h, w in (p.truth.shape for p in shown))
    made: list[dict[str, Any]] = []
    for picture in shown:
        became = {name: outcomes(picture.truth, labels) for name, labels in picture.labels.items()}
        both = [(labels, became[name]) for name, labels in picture.labels.items()]
        window = worst_window(picture.truth, both, side).place
        high, wide = picture.truth[window].shape
        layers = {TRUTH: _truth_layer(picture.truth, window)}
        for name, labels in picture.labels.items():
            layers[name] = _method_layers(picture.truth, labels, became[name], window)
        said = f"{wide} × {high} pixels"
        if (high, wide) != picture.truth.shape:
            whole = f"{picture.truth.shape[1]} × {picture.truth.shape[0]}"
            said += f" of {whole}, from row {window[0].start}, column {window[1].start}"
        made.append({"image": picture.image, "split": picture.split, "cut": said})
        made[-1] |= {"width": wide, "height": high, "layers": layers}
        made[-1]["base"] = _uri(_grey(picture.pixels[window]), "WEBP", quality=75, method=6)
    if any(p.truth.shape != (m["height"], m["width"]) for p, m in zip(shown, made)):
        notes.append(
            f"To keep this page small, each picture is cropped to the window of at most {side} × "
            f"{side} pixels in which the methods make most errors. Pictures are not scaled."
        )
    return made, notes


def _truth_layer(truth: NDArray[np.int32], window: Place) -> dict[str, Any]:
    cut = np.isin(truth, border_labels(truth))
    return {"outlines": _layer({TRUE_LINE: _outline(truth, cut)[window]}), "outcomes": ""}


def _method_layers(
    truth: NDArray[np.int32], labels: NDArray[np.int32], became: Outcomes, window: Place
) -> dict[str, Any]:
    """Return a method's layers; outcomes are those of whole cells, also where these are cropped."""
    _, left_out = left_out_pixels(truth, labels, became)
    painted = outcome_pixels(truth, labels, became)[window]
    colours = {c: painted == place for place, c in enumerate(OUTCOME_COLOURS.values(), 1)}
    seen_true = np.isin(became.true, np.unique(truth[window]))
    seen_pred = np.isin(became.pred, np.unique(labels[window]))
    seen_pred &= became.pred_outcome == "invented"
    named = [*became.true_outcome[seen_true], *became.pred_outcome[seen_pred]]
    return {
        "outlines": _layer({CELL_LINE: _outline(labels, left_out)[window]}),
        "outcomes": _layer(colours),
        "counts": {name: named.count(name) for name in OUTCOMES},
    }


def _outline(labels: NDArray[np.int32], dashed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return border(labels) & (~dashed | dashes(labels.shape))


def _grey(pixels: NDArray[np.floating]) -> Image.Image:
    grey: NDArray[np.uint8] = (255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8)
    return Image.fromarray(grey)


def _layer(masks: dict[str, NDArray[np.bool_]]) -> str:
    """Paint masks with a colour each on a transparent picture."""
    index = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for number, mask in enumerate(masks.values(), 1):
        index[mask] = number
    picture = Image.fromarray(index)
    colours = ["#000000", *masks]
    picture.putpalette([value for colour in colours for value in bytes.fromhex(colour[1:])])
    return _uri(picture, "PNG", optimize=True, transparency=0)


def _uri(picture: Image.Image, form: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
