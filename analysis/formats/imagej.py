"""Label images in the formats of other programs: TIFF, binary PNG, ImageJ ROIs."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from analysis.morphology.features import outlines
from trainables.labels import touching_gap
from trainables.records.files import write_with

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of the files in a ZIP; constant, so that equal labels give equal bytes."""


def write_labels(
    labels: NDArray[np.integer[Any]], path: Path, *, highest: int | None = None
) -> None:
    """Write a label image as a TIFF that ImageJ, QuPath, napari and segsweep read.

    Parameters
    ----------
    labels : (H, W) integer array
        Labels, none of them negative.
    path : Path
        The file: uint16, or uint32 where a label is larger than 65535; compressed with zlib.
    highest : int, optional
        Largest label of all images of a series, so that they get one data type; default: of this
        image.
    """
    top = int(labels.max(initial=0)) if highest is None else highest
    wide = top > np.iinfo(np.uint16).max
    small = labels.astype(np.uint32 if wide else np.uint16)
    write_with(path, lambda p: tifffile.imwrite(p, small, compression="zlib", metadata=None))


def separated(labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return a foreground mask in which every label is one separate connected piece.

    Parameters
    ----------
    labels : (H, W) integer array

    Returns
    -------
    (H, W) bool array
        Touching cells are separated by a line one pixel wide, taken from the larger cell (a small
        one may have no pixel to spare). If a label has several pieces, the largest one is kept;
        pieces are 4-connected, as in TrackMate's mask detector.

    Examples
    --------
    >>> separated(np.array([[1, 1, 1, 2, 2, 0, 3]])).astype(int)
    array([[1, 1, 0, 1, 1, 0, 1]])
    """
    from skimage.measure import label

    found, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.zeros(len(found), np.int64)
    cells = found > 0
    rank[cells] = np.argsort(np.argsort(-sizes[cells], kind="stable"), kind="stable") + 1
    ranked = rank[index.reshape(labels.shape)]
    ranked[touching_gap(ranked)] = 0
    pieces, count = label(ranked, connectivity=1, background=0, return_num=True)
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    owner = np.zeros(count + 1, np.int64)
    owner[pieces.ravel()] = ranked.ravel()
    order = np.lexsort((-size, owner))
    keep = np.zeros(len(owner), bool)
    keep[order[np.r_[True, np.diff(owner[order]) > 0]]] = True
    keep[0] = False
    kept: NDArray[np.bool_] = keep[pieces]
    return kept


def write_binary(labels: NDArray[np.integer[Any]], path: Path) -> None:
    """Write the `separated` foreground as an 8-bit PNG of 0 and 255."""
    content = imagecodecs.png_encode(separated(labels).astype(np.uint8) * 255)
    write_with(path, lambda p: p.write_bytes(content))


def write_rois(
    labels: NDArray[np.integer[Any]], path: Path, *, position: int | None = None
) -> None:
    """Write the outlines of all cells as a ZIP that ImageJ's ROI Manager opens.

    Parameters
    ----------
    labels : (H, W) integer array
    path : Path
        The file: polygons through the pixel corners of each label's largest part, without holes,
        each named by its label.
    position : int, optional
        Position of the image in its stack, from 0; ImageJ then shows the polygons only there.
    """
    from roifile import ROI_TYPE, ImagejRoi

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for label, outline in outlines(labels, convention="trackmate_raw").items():
                # ImageJ counts from the first pixel's corner
                points = (outline + 0.5).astype(np.float32)
                roi = ImagejRoi.frompoints(points, name=str(label), position=position)
                roi.roitype = ROI_TYPE.POLYGON
                entry = zipfile.ZipInfo(f"{label}.roi", _EPOCH)
                archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)

    write_with(path, write)


def read_rois(path: Path | str, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Read a ZIP of ImageJ ROIs, such as `write_rois` writes, as a label image.

    Parameters
    ----------
    path : path
        The ZIP. ROIs named by integers keep these as labels; others are numbered from 1.
    shape : (int, int)
        Shape of the image.

    Returns
    -------
    (H, W) int32 array
        A pixel belongs to a ROI if its centre lies in it; where ROIs overlap, the last one counts.

    Raises
    ------
    ValueError
        When the file is not a ZIP of ROIs.
    """
    from roifile import roiread
    from skimage.draw import polygon

    try:
        rois = roiread(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a ZIP of ImageJ ROIs: {error}") from error
    rois = rois if isinstance(rois, list) else [rois]
    names = [roi.name for roi in rois]
    named = all(name.isdecimal() for name in names) and len(set(names)) == len(names)
    labels = np.zeros(shape, np.int32)
    for number, roi in enumerate(rois, 1):
        points = roi.coordinates() - 0.5
        rows, columns = polygon(points[:, 1], points[:, 0], shape)
        labels[rows, columns] = int(roi.name) if named else number
    return labels
