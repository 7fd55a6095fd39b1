"""Files of stardist's own model: states as arrays of numpy, weights as Keras stores them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.records.files import write_with
from trainables.records.resumable import Form


def savez(path: Path, arrays: Sequence[NDArray[Any]]) -> None:
    """Write arrays to a file of numpy, whose name is taken as it is."""
    with open(path, "wb") as handle:  # np.savez adds a suffix to names
        np.savez(handle, *arrays)


def write_arrays(path: Path, arrays: Sequence[NDArray[Any]]) -> None:
    """Write arrays to a file of numpy, whole or not at all."""
    write_with(path, lambda temporary: savez(temporary, arrays))


def read_arrays(path: Path) -> list[NDArray[Any]]:
    """Return the arrays of a file that `savez` wrote."""
    with np.load(path, allow_pickle=False) as content:
        return [content[f"arr_{number}"] for number in range(len(content.files))]


FORM = Form(".npz", ".npz", savez, read_arrays)


def save_weights(network: Any, path: Path) -> None:
    """Write the weights of a network of Keras."""
    # Keras insists on the suffix, and write_with's temporary file has another
    suffixed = path.with_name(path.name + ".weights.h5")
    network.save_weights(suffixed)
    suffixed.replace(path)
