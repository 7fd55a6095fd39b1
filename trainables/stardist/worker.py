"""The process in which stardist's own model trains and predicts; the only one with TensorFlow.

Started by `client` as ``python -m trainables.stardist.worker FD``. Requests come as
JSON lines on standard input, answers go as JSON lines to the descriptor FD; what TensorFlow
prints goes elsewhere. The process ends when its standard input closes, so it never outlives its
trial.
"""

# ruff: noqa: E402 - torch must be blocked before anything else is imported

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any, TextIO


class _NoTorch(MetaPathFinder):
    """Refuses torch: it must not share a process with TensorFlow, and libraries import it
    where they can. (A None in ``sys.modules`` would do so too, but misleads who looks there.)
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)


sys.meta_path.insert(0, _NoTorch())

import ctypes
import json
import os
import queue
import signal
import threading
import time
from pathlib import Path

import numpy as np

from trainables import memory
from trainables.config import RunOptions, TrialConfig
from trainables.errors import HostMemoryShort, OutOfMemory, kind_of
from trainables.stardist.arrays import write_arrays
from trainables.stardist.training import (
    Trial,
    build,
    polygons,
    standardise,
    start_tensorflow,
)
from trainables.tiling import Inference

PR_SET_PDEATHSIG = 1


def _die_with_parent(lines: queue.SimpleQueue[str | None]) -> None:
    """Put standard input's lines in a queue; end the process when it or the parent ends."""
    parent = os.getppid()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(1)

    def watch() -> None:  # another process may have inherited the pipe and hold it open
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    threading.Thread(target=watch, daemon=True).start()


def _die_with_trial() -> None:
    """Let the kernel end the process with the thread that started it.

    Only for training, whose thread waits for it: a predictor outlives the thread that used it
    first.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def predict(request: dict[str, Any], lines: queue.SimpleQueue[str | None], answer: TextIO) -> None:
    """Serve predictions: each request names a file with a normalised image, and one to write."""
    config = TrialConfig.model_validate(request["config"])
    start_tensorflow(RunOptions.model_validate(request["options"]), request["gpu_memory_mb"])
    model = build(config)
    model.keras_model.load_weights(request["weights"])
    print(json.dumps({"ready": True}), file=answer, flush=True)
    while (line := lines.get()) is not None:
        task = json.loads(line)
        image = standardise(np.load(task["image"], allow_pickle=False), config)
        prob, dist = polygons(model, image, Inference(**task["inference"]))
        write_arrays(Path(task["output"]), [prob, dist])
        print(json.dumps({"done": True}), file=answer, flush=True)


def main() -> None:
    """Read one request, serve it, and report errors in one line."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    _die_with_parent(lines)
    answer = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    request = json.loads(lines.get() or "")
    try:
        if request["do"] == "predict":
            predict(request, lines, answer)
            return
        _die_with_trial()
        trial = Trial(request, lines, answer)
        with memory.limited(None, memory_gb=trial.options.memory_gb):
            trial.run()
    except Exception as error:
        kind = kind_of(error)
        if "ResourceExhausted" in kind or "OOM when allocating" in str(error):
            kind = OutOfMemory.__name__
        elif kind == OutOfMemory.__name__ and request["options"]["device"] == "cuda":
            kind = HostMemoryShort.__name__  # TensorFlow tells of the GPU's memory as above
        text = " ".join((str(error).strip().splitlines() or ["no message"])[0].split())
        print(json.dumps({"error": text[:500], "kind": kind}), file=answer, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
