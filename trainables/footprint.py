"""How much memory and computing a trial needs, estimated or measured.

`estimate` follows the allocations of a training step on tensors without contents; `probe` runs
real steps in a fresh process, so that nothing else is lost if it dies. torch is imported inside
functions only, so a plan that finds everything in the `FootprintCache` does not wait for torch.
Memory is the trial's own; `sweep.packing` adds the process's (CUDA context, libraries).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainables.config import STARDIST, TrialConfig
from trainables.extensions import ARCHITECTURES, code_of
from trainables.records.files import write_json
from trainables.tasks import TASKS

FORMAT = 2
"""Increased when results of `estimate` or `probe` change, so that old caches are not used."""
MIB = 2**20
FRAMEWORK_MB = 40.0
"""MiB that a framework's compiled kernels and handles take in the first step."""
OVERHEAD = 1.2
"""Factor for memory taken beyond what is allocated (see the notes of `estimate`)."""
WEIGHTS_AND_MOMENTS = 3 * 4
"""Bytes per parameter throughout training: float32 weights and AdamW's moments."""
OPTIMIZER_STEP = 5 * 4
"""Bytes per parameter during a step of AdamW: these, gradients, and a temporary on GPUs."""
Shape = tuple[int, int]


@dataclass(frozen=True)
class Footprint:
    """What one training step of a trial needs."""

    parameters: int
    """Number of weights."""
    activation_mb: float
    """MiB that the forward pass of a batch keeps for the backward pass."""
    peak_mb: float
    """Largest MiB in training, including weights and optimiser but not the process itself."""
    gflops: float
    """10^9 floating-point operations of one crop's forward pass, two per multiply-add."""
    measured: bool
    """Whether `peak_mb` comes from real steps."""


def output_channels(config: TrialConfig) -> int:
    """Return the channels of a network's output: logits, or probability and distances."""
    return TASKS[config.task].channels_of(config)


def estimate(
    config: TrialConfig, *, bf16: bool | None = None, image_shape: Shape | None = None
) -> Footprint:
    """Estimate a trial's footprint from one training step on tensors without contents.

    Parameters
    ----------
    config : TrialConfig
    bf16 : bool, optional
        Whether it will run in bfloat16; None: as its precision says, where ``auto`` means float32.
    image_shape : (int, int), optional
        Height and width in pixels of the largest image: with large images and small batches,
        evaluating a whole image takes more memory than training.

    Returns
    -------
    Footprint
        `peak_mb` is the largest sum, at any moment, of weights, AdamW's moments, gradients so
        far, activations, temporaries and a workspace; times `OVERHEAD`, plus `FRAMEWORK_MB`.

    Notes
    -----
    Estimates were 0.94 to 1.48 times what `probe` measured on one CPU core (median 1.07; 36 cases
    with 14 to 475 million parameters in float32 and bfloat16, crops of 64 to 224 pixels, batches
    of 2 to 16).
    """
    if config.architecture == STARDIST:
        return _estimate_stardist(config)
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from trainables.architectures import build_model, count_parameters

    half = config.precision == "bf16" if bf16 is None else bf16
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with FakeTensorMode():
        channels = output_channels(config)
        with _allocations()() as built:  # VGG is built with its classifier, which is then dropped
            network = build_model(config.architecture, config.encoder, classes=channels)
        parameters = count_parameters(network)
        x = torch.empty(config.batch_size, 1, config.crop_size, config.crop_size)
        with _allocations()() as seen:
            with autocast:
                logits = network(x).float()
            kept, flops = seen.live, seen.flops
            _surrogate_loss(logits).backward()
        moving = seen.peak
        if image_shape is not None:
            x = torch.empty(1, 1, *_padded(image_shape))
            with torch.inference_mode(), autocast, _allocations()() as whole:
                network.eval()(x)
            moving = max(moving, whole.peak + 4 * parameters)  # the last step's gradients
    moving += parameters * WEIGHTS_AND_MOMENTS + seen.workspace
    step = max(moving, parameters * OPTIMIZER_STEP, built.peak)
    return Footprint(
        parameters=parameters,
        activation_mb=round(kept / MIB, 1),
        peak_mb=round(OVERHEAD * step / MIB + FRAMEWORK_MB, 1),
        gflops=round(flops / config.batch_size / 1e9, 3),
        measured=False,
    )


def inference_mb(config: TrialConfig, image_shape: Shape, *, bf16: bool = False) -> float:
    """Estimate the memory for predicting one whole image, without the process's own memory.

    Parameters
    ----------
    config : TrialConfig
        Not of stardist's own model, which is small and predicts in its own tiles.
    image_shape : (int, int)
        Height and width in pixels.
    bf16 : bool
        Whether it will run in bfloat16.

    Returns
    -------
    float
        MiB: weights plus the largest sum of activations at any moment, times `OVERHEAD`.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from trainables.architectures import build_model, count_parameters

    with FakeTensorMode():
        channels = output_channels(config)
        network = build_model(config.architecture, config.encoder, classes=channels).eval()
        x = torch.empty(1, 1, *_padded(image_shape))
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), autocast, _allocations()() as seen:
            network(x)
    return OVERHEAD * (int(seen.peak) + 4 * count_parameters(network)) / MIB + FRAMEWORK_MB


def _padded(shape: Shape) -> Shape:
    """Return an image's sides as predictions pad them."""
    return -(-shape[0] // 32) * 32, -(-shape[1] // 32) * 32


def _surrogate_loss(logits: Any) -> Any:
    """Stand in for every loss, by keeping three maps of the output's size."""
    from torch.nn.functional import l1_loss, softplus

    return l1_loss(softplus(logits), logits.detach() * 0)


def _allocations() -> type[Any]:
    """Make the class that follows allocations; its base needs torch."""
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    known: dict[int, Any] = {}

    def storages(tree: Any) -> dict[int, Any]:
        found = [t.untyped_storage() for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]
        return {storage._cdata: storage for storage in found}

    class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Sums the bytes of storages that operations allocate, until they are freed."""

        live = peak = workspace = flops = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
            kw = kw or {}
            out = func(*args, **kw)
            given, made = storages((args, kw)), storages(out)
            for key in made.keys() - given.keys() - known.keys():
                self.live += made[key].nbytes()
                known[key] = weakref.ref(made[key], partial(self._freed, key, made[key].nbytes()))
            self.peak = max(self.peak, self.live)
            packet = func._overloadpacket
            if packet in flop_registry:
                # Libraries reorder a convolution's largest operand into their own layout.
                sizes = [storage.nbytes() for storage in (given | made).values()]
                self.workspace = max(self.workspace, *sizes)
                self.flops += flop_registry[packet](*args, **kw, out_val=out)
            return out

        def _freed(self, key: int, size: int, _: Any) -> None:
            self.live -= size
            del known[key]

    return Allocations


STARDIST_CONVOLUTIONS = (
    (32, 32, 0, 3),
    (32, 64, 1, 3),
    (64, 64, 1, 3),
    (64, 128, 2, 3),
    (128, 128, 2, 3),
    (128, 256, 3, 3),
    (256, 128, 3, 3),
    (256, 128, 2, 3),
    (128, 64, 2, 3),
    (128, 64, 1, 3),
    (64, 32, 1, 3),
    (64, 32, 0, 3),
    (32, 32, 0, 3),
    (32, 128, 0, 3),
    (128, 1, 0, 1),
)
"""Of stardist's U-Net between its first and its last: channels in and out, level, kernel."""
STARDIST_MAPS = (
    (32, 1),
    (64, 2),
    (128, 3),
    (128, 2),
    (256, 2),
    (64, 1),
    (128, 1),
    (32, 0),
    (64, 0),
)
"""Its pooled, enlarged and joined maps: channels, level."""


def _estimate_stardist(config: TrialConfig) -> Footprint:
    """Estimate stardist's own U-Net from its layer list, without TensorFlow.

    Config2D's defaults, float32. Every convolution's output is kept (the ReLU works in place),
    and so are pooled, enlarged and joined maps. For a grid above 1 two convolutions and a pooling
    per halving come first, and the U-Net works on what is left.
    """
    rays, side = output_channels(config) - 1, config.crop_size
    top = config.grid.bit_length() - 1  # level of the U-Net's largest maps
    first = 32 if top else 1
    halving = [(1 if n == 0 else 32, 32, n // 2, 3) for n in range(2 * top)]
    unet = [(first, 32, 0, 3), *STARDIST_CONVOLUTIONS, (128, rays, 0, 1)]
    convolutions = [*halving, *((i, o, level + top, k) for i, o, level, k in unet)]
    pooled = [(32, level + 1) for level in range(top)]
    others = [*pooled, *((channels, level + top) for channels, level in STARDIST_MAPS)]
    maps = [*((o, level) for _, o, level, _ in convolutions), *others]
    kept = [4 * channels * (side >> level) ** 2 * config.batch_size for channels, level in maps]
    parameters = sum(o * (i * k**2 + 1) for i, o, _, k in convolutions)
    # Backward, the gradients of a layer's input and output live beside what is kept.
    step = parameters * (WEIGHTS_AND_MOMENTS + 4) + sum(kept) + 3 * max(kept)
    return Footprint(
        parameters=parameters,
        activation_mb=round(sum(kept) / MIB, 1),
        peak_mb=round(OVERHEAD * step / MIB + FRAMEWORK_MB, 1),
        gflops=sum(2 * i * o * (k * (side >> level)) ** 2 for i, o, level, k in convolutions) / 1e9,
        measured=False,
    )


def probe(
    config: TrialConfig,
    device: str,
    *,
    image_shape: Shape | None = None,
    timeout_s: float | None = None,
) -> tuple[Footprint | None, str]:
    """Measure a trial's peak memory in a fresh process.

    It runs two training steps, because AdamW's moments exist only from the second step on.

    Parameters
    ----------
    config, image_shape
        As for `estimate`.
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    timeout_s : float, optional
        Seconds after which the process is ended; importing torch alone takes about ten.

    Returns
    -------
    footprint : Footprint or None
        `peak_mb` is what torch reserved on a GPU, or the growth of resident memory on a CPU.
    reason : str
        Why there is no footprint, in one line; otherwise empty.
    """
    if config.architecture == STARDIST:
        return None, f"{STARDIST} is a TensorFlow network; its memory is only estimated"
    values = config.model_dump(mode="json")
    request = json.dumps({"config": values, "device": device, "image_shape": image_shape})
    paths = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "trainables.footprint"],
            input=request,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
    except subprocess.TimeoutExpired:
        return None, f"measuring took more than {timeout_s:g} s"
    except OSError as error:
        return None, f"measuring did not start: {error}"
    if done.returncode == -9:
        return None, "measuring was killed, most likely because memory ran out"
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        return (None, answer["error"]) if "error" in answer else (Footprint(**answer), "")
    except (IndexError, TypeError, ValueError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return None, f"measuring ended with code {done.returncode}: {last}"


def _measure(config: TrialConfig, device_name: str, image_shape: Shape | None) -> Footprint:
    """Train and evaluate with noise in this process, which should be a fresh one."""
    import torch

    from trainables import memory
    from trainables.architectures import build_model
    from trainables.predict import autocast, resolve_device, resolve_precision

    device = resolve_device(device_name)
    precision = resolve_precision(config.precision, device)
    guess = estimate(config, bf16=precision == "bf16-mixed")
    torch.set_num_threads(1)
    memory.reset_peak(device)
    before = 0.0 if device.type == "cuda" else memory.peak_mb(device)
    network = build_model(config.architecture, config.encoder, classes=output_channels(config))
    network = network.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())

    def logits(*shape: int) -> Any:
        x = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        with autocast(precision, device):
            return network(x).float()

    for _ in range(2):
        optimizer.zero_grad()
        _surrogate_loss(logits(config.batch_size, 1, config.crop_size, config.crop_size)).backward()
        optimizer.step()
    if image_shape is not None:
        network.eval()
        with torch.inference_mode():
            logits(1, 1, *_padded(image_shape))
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_reserved(device) / MIB if cuda else memory.peak_mb(device) - before
    return replace(guess, peak_mb=round(peak, 1), measured=True)


def footprint_key(
    config: TrialConfig, device_name: str, *, image_shape: Shape | None = None
) -> str:
    """Return a key made of all that determines a footprint, including the GPU's name or ``cpu``."""
    height, width = _padded(image_shape or (0, 0))
    parts = (
        f"format {FORMAT}",
        f"{output_channels(config)} channels",
        config.architecture,
        config.encoder,
        f"{config.crop_size} px",
        f"batch {config.batch_size}",
        config.precision,
        f"images {height}x{width}",
        f"torch {version('torch')}",
        f"smp {version('segmentation-models-pytorch')}",
        device_name,
        f"grid {config.grid}",
        *(f"code {code}" for code in [code_of(config.architecture, ARCHITECTURES)] if code),
    )
    return " | ".join(parts)


class FootprintCache:
    """Footprints by `footprint_key` in one JSON file, which may be deleted at any time.

    If two processes write at once, one may lose its entry, which is then measured again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self) -> dict[str, Any]:
        """Return the entries; none of a file that is absent, damaged or unreadable."""
        with contextlib.suppress(OSError, TypeError, ValueError):
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        return {}

    def get(self, key: str) -> Footprint | None:
        """Return the footprint stored under a key."""
        with contextlib.suppress(KeyError, TypeError):
            return Footprint(**self._read()[key])
        return None

    def put(self, key: str, footprint: Footprint) -> None:
        """Add an entry to those in the file; a full or read-only disk is not an error."""
        with contextlib.suppress(OSError):
            write_json(self.path, {**self._read(), key: asdict(footprint)})


def main() -> None:
    """Answer one request on standard input with one JSON line on standard output."""
    # Under want of memory the kernel should end this process, not the sweep.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    request = json.load(sys.stdin)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            config = TrialConfig.model_validate(request["config"])
            answer = asdict(_measure(config, request["device"], request["image_shape"]))
    except Exception as error:  # out of memory among others; all that matters is the reason
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
