"""Measure cells: area, perimeter, circularity, solidity, radius, shape index, centroid.

Programs differ by tens of per cent in the perimeter of the same digital object, and by twice that
in its circularity, so the convention is always named: TrackMate's (the paper's), TrackMate's
without simplified outlines, ImageJ's, or scikit-image's. ``docs/morphology.md`` has the
definitions, and the values that the programs themselves give.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.kernels.features import (
    COUNTS,
    ELLIPSE,
    FEATURES,
    largest_parts,
    measure_objects,
    outline_of,
)
from analysis.kernels.outlines import opened_corners
from analysis.kernels.parts import find_parts

__all__ = ["CONVENTIONS", "EXTRAS", "FEATURES", "measure", "outlines"]

CONVENTIONS = ("trackmate", "trackmate_raw", "imagej", "skimage")
EXTRAS = (*COUNTS, *ELLIPSE)


def measure(
    label_image: NDArray[np.integer[Any]] | NDArray[np.bool_],
    *,
    convention: str = "trackmate",
    pixel_size_um: float | None = None,
) -> pd.DataFrame:
    """Measure every labelled object of an image.

    Parameters
    ----------
    label_image : (H, W) integer or boolean array
        0 is background; every other value is the label of one object.
    convention : {"trackmate", "trackmate_raw", "imagej", "skimage"}
        Program to measure like. ``trackmate``: on TrackMate's simplified outline.
        ``trackmate_raw``: on the outline of the pixels, with holes filled. ``imagej``: Analyze
        Particles. ``skimage``: `skimage.measure.regionprops`.
    pixel_size_um : float, optional
        Side of a pixel in micrometres.

    Returns
    -------
    DataFrame
        One row per label, ascending:

        - label
        - x, y : centroid in pixels; the centre of the first pixel is (0, 0), with ``imagej``
          (0.5, 0.5)
        - area (pixels), perimeter (pixels), circularity ``4 pi area / perimeter**2`` (clipped at
          1 by ``imagej`` only), solidity (area divided by that of the convex hull), radius
          ``sqrt(area / pi)`` (pixels), shape_index ``perimeter / sqrt(area)``
        - area_um2, perimeter_um, radius_um, if `pixel_size_um` is given
        - parts : number of disjoint parts of the label: 8-connected parts, or with ``trackmate``
          and ``trackmate_raw`` the parts that TrackMate takes for objects. Only the part with the
          most pixels is measured (the first one in raster order if several are equal)
        - num_pixels, top, left, bottom, right (one past the last row and column),
          axis_major_length, axis_minor_length, eccentricity, orientation of that part's pixels,
          as in `skimage.measure.regionprops`

        The features of objects that the convention drops are NaN (objects of one or two pixels,
        which ``trackmate`` cannot simplify). Circularity is NaN if there is no perimeter (one
        pixel in ``skimage``).

    Raises
    ------
    ValueError
        When the image is not 2-D or has values other than non-negative integers, when the
        convention is unknown, or when the pixel size is not positive.

    Notes
    -----
    Written from published definitions and from the results of TrackMate 8.1.7 (Ershov et al. 2022,
    doi:10.1038/s41592-022-01507-1), ImageJ 1.53t (Schneider et al. 2012, doi:10.1038/nmeth.2089)
    and scikit-image 0.26.0 (van der Walt et al. 2014, doi:10.7717/peerj.453) for difficult
    objects, which the tests reproduce.

    Examples
    --------
    >>> square = np.zeros((5, 5), int)
    >>> square[1:4, 1:4] = 1
    >>> measure(square, convention="trackmate_raw")[["area", "perimeter", "x"]].to_numpy().tolist()
    [[9.0, 12.0, 2.0]]
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}: use {', '.join(CONVENTIONS)}")
    if pixel_size_um is not None and not (0 < pixel_size_um < math.inf):
        raise ValueError(f"pixel_size_um must be positive, not {pixel_size_um}")
    found = measure_objects(_as_labels(label_image), CONVENTIONS.index(convention))
    columns = {name: found[name] for name in ("label", *FEATURES)}
    if pixel_size_um is not None:
        columns["area_um2"] = found["area"] * pixel_size_um**2
        columns["perimeter_um"] = found["perimeter"] * pixel_size_um
        columns["radius_um"] = found["radius"] * pixel_size_um
    columns |= {name: found[name] for name in EXTRAS}
    return pd.DataFrame(columns)


def _as_labels(label_image: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a label image as kernels take it, or refuse it."""
    image = np.asarray(label_image)
    if image.ndim != 2:
        raise ValueError(f"a label image must have two dimensions, not shape {image.shape}")
    if image.dtype.kind not in "iub":
        raise ValueError(f"a label image must contain integers, not {image.dtype}")
    if image.dtype.kind == "i" and image.size and image.min() < 0:
        raise ValueError("a label image must not contain negative numbers")
    if image.dtype == np.uint64 and image.size and image.max() > np.iinfo(np.int64).max:
        raise ValueError("labels must be smaller than 2**63")
    return np.ascontiguousarray(image, dtype=np.int64)


def outlines(
    label_image: NDArray[np.integer[Any]], *, convention: str = "trackmate"
) -> dict[int, NDArray[np.float64]]:
    """Return the outline of each label's largest part.

    Parameters
    ----------
    label_image : (H, W) integer array
    convention : {"trackmate", "trackmate_raw"}

    Returns
    -------
    dict of int to (N, 2) float64 array
        x and y of the vertices by label, in pixels, with pixel centres at integers; N is 0 if the
        convention drops the object.
    """
    if convention not in CONVENTIONS[:2]:
        raise ValueError(f"outlines need {' or '.join(CONVENTIONS[:2])}, not {convention}")
    image = np.ascontiguousarray(label_image, dtype=np.int64)
    parts, count = find_parts(image, True, True)
    opened = opened_corners(parts)
    simplified = convention == "trackmate"
    return {
        int(part["label"]): outline_of(parts, opened, part, simplified) - 0.5
        for part in largest_parts(image, parts, count)
    }
