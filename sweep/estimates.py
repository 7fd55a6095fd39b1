"""Estimates of the memory and computing time that trials need, made before any of them starts.

Estimates need torch, which takes seconds to import. They are made in a separate process while Ray
starts, and cached, so that most sweeps do not wait for them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from sweep.limits import Limits
from sweep.packing import PackedTrial
from sweep.throughput import CPU, Throughput, estimate_seconds
from trainables import extensions
from trainables.config import TrialConfig
from trainables.data.dataset import DataSet
from trainables.footprint import Footprint, FootprintCache, estimate, footprint_key

ESTIMATED = "estimated"
"""Stands for the device's name in the key of an estimate."""


BYTES_PER_PIXEL = 4 + 2
"""Bytes for an image in float32 and its labels (few images have more than 65,535 labels)."""


def default_cache() -> FootprintCache:
    """Return the user's cache of footprints."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return FootprintCache(Path(home).expanduser() / "segsweep" / "footprints.json")


class Estimates:
    """Footprints of trials, estimated in a separate process.

    Parameters
    ----------
    configs : mapping
        TrialConfig by trial_id.
    image_shape : (H, W), optional
        Shape of the largest image that will be evaluated whole; None leaves this out.
    cache : FootprintCache, optional
        The user's cache by default.
    """

    def __init__(
        self,
        configs: Mapping[str, TrialConfig],
        image_shape: tuple[int, int] | None = None,
        cache: FootprintCache | None = None,
    ) -> None:
        self.cache = cache or default_cache()
        self.keys = {
            i: footprint_key(c, ESTIMATED, image_shape=image_shape) for i, c in configs.items()
        }
        self.known = {k: f for k in set(self.keys.values()) if (f := self.cache.get(k))}
        missing = {self.keys[i]: c for i, c in configs.items() if self.keys[i] not in self.known}
        self._process: subprocess.Popen[str] | None = None
        if missing:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "sweep.estimates"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": _python_path(missing.values())},
            )
            assert self._process.stdin is not None
            self._process.stdin.write(
                json.dumps(
                    [image_shape, {k: c.model_dump(mode="json") for k, c in missing.items()}]
                )
            )
            self._process.stdin.close()

    @property
    def waiting(self) -> int:
        """Number of networks that are being estimated."""
        return len(set(self.keys.values()) - set(self.known))

    def ready(self) -> bool:
        """Whether `result` would return without waiting."""
        return self._process is None or self._process.poll() is not None

    def result(self) -> dict[str, Footprint]:
        """Wait for the estimates; trials that could not be estimated are missing."""
        if self._process is not None:
            assert self._process.stdout is not None
            with self._process.stdout as lines:
                for line in lines:
                    key, fields = json.loads(line)
                    self.known[key] = Footprint(**fields)
                    self.cache.put(key, self.known[key])
            self._process.wait()
            self._process = None
        return {i: self.known[k] for i, k in self.keys.items() if k in self.known}

    def close(self) -> None:
        """Stop estimating."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


def _python_path(configs: Iterable[TrialConfig]) -> str:
    root = str(Path(__file__).resolve().parents[1])
    targets = {extensions.target_of(c.architecture, extensions.ARCHITECTURES) for c in configs}
    own = dict.fromkeys(str(path.parent) for path in extensions.sources(filter(None, targets)))
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH"), *own]))


def count_crops(dataset: DataSet, crop_size: int) -> int:
    """Estimate the number of crops per epoch: those of the grid that covers the images.

    Cells on the lines of the grid get additional crops, which are not counted. With folds, those of
    the first one, as the folds have similar numbers of images.
    """
    shapes = (dataset.shapes[stem] for stem in dataset.split["train"])
    return sum(math.prod(-(-side // crop_size) for side in shape) for shape in shapes)


def largest_shape(dataset: DataSet) -> tuple[int, int]:
    """Return the largest height and the largest width of the validation images, of any fold.

    Larger images are predicted in tiles with no more pixels than that.
    """
    shapes = [dataset.shapes[item.stem] for item in dataset.validated]
    return max(h for h, _ in shapes), max(w for _, w in shapes)


def images_mb(dataset: DataSet) -> float:
    """Return the memory in MiB of a trial's training and validation images and label images."""
    stems = (*dataset.split["train"], *dataset.split["val"])
    return sum(math.prod(dataset.shapes[stem]) for stem in stems) * BYTES_PER_PIXEL / 2**20


def as_items(
    configs: Mapping[str, TrialConfig],
    footprints: Mapping[str, Footprint],
    limits: Mapping[str, Limits],
    hardware: Throughput,
    crops: Callable[[int], int],
    cores: float = 1.0,
) -> list[PackedTrial]:
    """Turn trials into items for `sweep.packing`.

    Parameters
    ----------
    configs : mapping
        TrialConfig by trial_id.
    footprints : mapping
        Footprint by trial_id; trials without one count as long as the mean.
    limits : mapping
        The result of `sweep.resources.first_limits`.
    hardware : Throughput
        The trials' processor; if others use GPUs, a trial without a share of a GPU uses `CPU`.
    crops : callable
        Returns the number of crops per epoch for a crop size.
    cores : float
        Cores of a trial on CPUs.
    """
    seconds = {}
    on_gpus = any(one.gpu for one in limits.values())
    for i, c in configs.items():
        own = limits.get(i, limits[""])
        apart = on_gpus and not own.gpu
        if (need := footprints.get(i)) is not None:
            seconds[i] = estimate_seconds(
                need,
                c,
                CPU if apart else hardware,
                crops(c.crop_size),
                cores=own.cpus or cores if apart else cores,
                share=min(1.0, own.gpu or 1.0),
            )
    mean = sum(seconds.values()) / len(seconds) if seconds else 0.0
    items = []
    for i in configs:
        share = min(1.0, limits.get(i, limits[""]).gpu or 1.0)
        memory = footprints[i].peak_mb if i in footprints else 0.0
        items.append(PackedTrial(i, seconds.get(i, mean), share, memory))
    return items


def main(lines: Iterable[str] | None = None) -> None:
    """Read configurations by key as JSON, and write one footprint per line."""
    import torch

    torch.set_num_threads(1)
    image_shape, content = json.loads("".join(lines or sys.stdin))
    shape = tuple(image_shape) if image_shape else None
    for key, fields in content.items():
        try:
            footprint = estimate(TrialConfig.model_validate(fields), image_shape=shape)
        except Exception as error:  # its trial will say what is wrong with it
            print(f"{key}: {error}", file=sys.stderr)
            continue
        print(json.dumps([key, asdict(footprint)]), flush=True)


if __name__ == "__main__":
    main()
