"""Draw docs/images/synthetic.png: a synthetic frame and its true outlines.

Run from the repository root: ``.venv/bin/python docs/make_synthetic_figure.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from trainables.synthetic.dataset import PIXEL_SIZE_UM, render_frame, simulate  # noqa: E402

COLOURS = {"small": "#ff9f1c", "large": "#2ec4f1"}
LEFT, TOP, SIDE = 640, 300, 400


def main() -> None:
    """Write the figure."""
    *_, frame = simulate(frames=3, seed=0)
    image, _ = render_frame(frame)
    crop = image[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
    low, high = np.percentile(crop, [0.3, 99.7])
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.25), dpi=100)
    for ax in axes:
        ax.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        ax.set(xlim=(LEFT - 0.5, LEFT + SIDE - 0.5), ylim=(TOP + SIDE - 0.5, TOP - 0.5))
        ax.set_axis_off()
    for cell in frame.cells:
        closed = np.vstack([cell.outline, cell.outline[:1]])
        axes[1].plot(closed[:, 0], closed[:, 1], color=COLOURS[cell.population], lw=1.4)
    for name, colour in COLOURS.items():
        axes[1].plot([], [], color=colour, lw=2, label=f"{name} population")
    axes[1].legend(loc="upper right", fontsize=11, framealpha=0.85)
    length = 20 / PIXEL_SIZE_UM
    for ax in axes:
        x, y = LEFT + SIDE - 14 - length, TOP + SIDE - 16
        ax.plot([x, x + length], [y, y], color="white", lw=5, solid_capstyle="butt")
        ax.text(x + length / 2, y - 7, "20 µm", color="white", ha="center", fontsize=12)
    axes[0].set_title("synthetic brightfield image", fontsize=13)
    axes[1].set_title("its true outlines", fontsize=13)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.94, wspace=0.015)
    target = ROOT / "docs" / "images" / "synthetic.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in it, the file changes only with what it shows.
    figure.savefig(target, metadata={"Software": None})


if __name__ == "__main__":
    main()
