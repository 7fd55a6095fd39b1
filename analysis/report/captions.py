"""What stands beside the report's figures: what is shown, n, units, split."""

from __future__ import annotations

from analysis.evidence import Evidence
from analysis.report.figure_images import LARGEST, SIDE
from analysis.report.figures import MOST_POINTS
from analysis.report.tables import (
    MOST_DOTS,
    counted,
    feature_column,
    independent,
    measured_split,
    unit_of,
)


def captions(evidence: Evidence) -> dict[str, tuple[str, str]]:
    """Return title and caption of every figure: what, n, units, split."""
    split = measured_split(evidence)
    board, objects = evidence.leaderboard, evidence.objects
    done = int((board["status"] == "done").sum()) if len(board) else 0
    trials = evidence.history["trial_id"].nunique() if len(evidence.history) else 0
    images = objects["image"].nunique() if len(objects) else 0
    unit = unit_of(evidence, cells=True)
    units = objects[unit].nunique() if len(objects) and unit in objects else 0
    seen = f"{images} {split} image{'s' * (images != 1)} with cells, {independent(units, unit)}"
    count, one = counted(evidence, split), unit_of(evidence)
    scored = f"{count['images']} {split} image{'s' * (count['images'] != 1)}, "
    scored += f"{independent(count['units'], one)}, {count['true_objects']:,} true cells"
    area = feature_column(evidence, "area")[1]
    size = "" if area == "µm²" else " No pixel size is known: sizes are in pixels."
    losses = (
        f"One line per trial ({trials} trials), one panel per architecture and task; colour and "
        "dash tell the encoder. Further seeds of a candidate are thin. Panels of one task share "
        f"their axes. With more than {MOST_POINTS} epochs, a point is the median of neighbours. "
        "Losses of different tasks are different functions: do not compare them."
    )
    crop = evidence.crop
    window = ""
    if crop is not None:
        high, wide = crop.pixels.shape[:2]
        window = (
            f"Image {crop.image}, window of {wide} × {high} pixels from row {crop.corner[0]}, "
            f"column {crop.corner[1]}. "
        )
    networks = (
        "The same window through every network. Dark is probability 0, bright is 1. White: the "
        "hand-drawn (or generated) outlines. Black: where the network's probability is 0.5. "
        f"{window}Of several seeds or settings, the one best on validation. A dash: no such "
        "finished trial."
    )
    dots = f"Small dots: each {{}} alone (not drawn above {MOST_DOTS})."
    picture = evidence.pictures[0] if evidence.pictures else None
    few = ""
    if picture is not None:
        few = f"Image {picture.image} ({picture.split})"
        if max(picture.truth.shape) > SIDE:
            few += f", cropped to the {SIDE} pixel window with most true foreground"
        more = len(picture.labels) > LARGEST
        few += f"; the first {LARGEST} of {len(picture.labels)} methods." if more else "."
    return {
        "figure5_training_loss": ("Training loss by epoch (the paper's Figure 5)", losses),
        "figure6_validation_loss": (
            "Validation loss by epoch (the paper's Figure 6)",
            losses + " Epochs that were not validated have no point.",
        ),
        "figure7_dataset_iou": (
            "Best data-set IoU by architecture and encoder (the paper's Figure 7)",
            f"Per cent, {done} finished trials. Intersection and union are summed over all test "
            "images, then divided. Where a cell has several trials, the one best on validation is "
            "shown. Framed: the highest of its task. Hatched: no finished trial, with its status.",
        ),
        "figure8_networks_semantic2": (
            "One crop through every network, 2 classes (Figure 8)",
            networks,
        ),
        "figure8_networks_semantic3": (
            "One crop through every network, 3 classes (Figure 8)",
            networks,
        ),
        "figure8_networks_stardist": ("One crop through every network, StarDist", networks),
        "figure9_features": (
            "Six features by method, ground truth first (the paper's Figure 9)",
            f"All instances of {seen}; n is the number of cells. Boxes: quartiles and median; "
            "whiskers: the last value within 1.5 box lengths; dots: values beyond. White diamonds: "
            f"mean of each {unit} (not drawn above {MOST_DOTS}). Dashed: the truth's median. "
            "Axes end at the 0.5 and 99.5 % points, or three box lengths from the box where that "
            f"is nearer; how many cells lie beyond is printed.{size}",
        ),
        "figure10_overlays": (
            "Overlays of methods on the truth and on each other (the paper's Figure 10)",
            f"{few} Pixels, not cells: pale where both have a cell, orange where only the first "
            "has (false positive against the truth), blue where only the second has (false "
            "negative). IoU is of the pixels shown.",
        ),
        "calibration": (
            "What calibration gains",
            f"Mean AP over IoU 0.5 to 0.9 on {scored}: instance parameters by default and "
            f"calibrated on validation. {dots.format(one)} Ticks: other seeds of the method.",
        ),
        "overlaps": (
            "AP by the overlap that a match needs",
            f"Calibrated, {scored}. AP = TP / (TP + FP + FN) at each IoU. {dots.format(one)} "
            "Points are set apart sideways so that the dots can be seen.",
        ),
        "bias": (
            "Bias of every feature against the ground truth",
            f"Cells found by both, {seen}: mean of (method − truth) in per cent of the truth's "
            f"mean. {dots.format(unit)} Grey: the noise floor, by which discs of the sizes of the "
            "true and of the found cells would differ when drawn on pixels.",
        ),
    }
