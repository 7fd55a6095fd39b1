"""Training steps on tensors that say they are on ``cuda:0``: a rehearsal, no GPU.

torch's fake tensors have a device and a shape, and no contents: where an operation meets tensors
of two devices it raises as on a GPU. That goes as far as the first transfer to the host;
``docs/gpu.md`` lists what it does not reach.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from skimage.draw import disk
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from trainables.architectures import build_model
from trainables.config import ARCHITECTURES, TrialConfig
from trainables.losses import LOSSES
from trainables.module import SegmentationModule
from trainables.predict import Scaling, predict_logits
from trainables.tasks import build_task
from trainables.tiling import Inference

GPU = torch.device("cuda", 0)
SIDE = 128
ENCODER = "mobilenet_v2"


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    # numpy arrays become tensors with contents, as in training; they are fake from then on
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def move(module: nn.Module) -> nn.Module:
    """Move what ``module.to(GPU)`` moves: parameters and buffers, and nothing else."""
    for one in module.modules():
        for name, parameter in one._parameters.items():
            if parameter is not None:
                one._parameters[name] = nn.Parameter(parameter.detach().to(GPU))
        for name, buffer in one._buffers.items():
            if buffer is not None:
                one._buffers[name] = buffer.to(GPU)
    return module


def cells() -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for label, center in enumerate([(30, 30), (30, 52), (90, 80)], 1):
        labels[disk(center, 11, shape=labels.shape)] = label
    return labels


def made(config: TrialConfig) -> SegmentationModule:
    """Build what a trial trains, on the GPU."""
    task = build_task(config, {"scale": 11.0})
    network = build_model(config.architecture, config.encoder, classes=task.channels)
    module = SegmentationModule(config, network, Scaling(0.5, 0.25), task, steps=10)
    move(module)
    return module


def step(module: SegmentationModule) -> torch.Tensor:
    """Make one training step's forward pass and loss, of a batch that was moved to the GPU."""
    labels = cells()
    targets = np.stack([module.task.target(labels)] * 2)
    images = torch.zeros(2, 1, SIDE, SIDE, device=GPU)
    return module.training_step((images, torch.from_numpy(targets).to(GPU)), 0)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [*((name, "semantic2") for name in ARCHITECTURES), ("Unet", "semantic3"), ("Unet", "stardist")],
)
def test_forward_and_loss(fake: FakeTensorMode, architecture: str, task: str) -> None:
    config = TrialConfig(task=task, architecture=architecture, encoder=ENCODER)
    module = made(config)
    assert {p.device for p in module.parameters()} == {GPU}
    loss = step(module)
    assert loss.device == GPU
    assert loss.shape == ()
    assert torch.stack(module._losses).mean().device == GPU
    # Adam's step: moments beside their weights
    optimizer = module.configure_optimizers()["optimizer"]
    assert {p.device for group in optimizer.param_groups for p in group["params"]} == {GPU}


@pytest.mark.parametrize("task", ["semantic2", "semantic3"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(fake: FakeTensorMode, loss: str, task: str) -> None:
    made = build_task(TrialConfig(task=task, loss=loss))
    target = torch.from_numpy(np.stack([made.target(cells())] * 2)).to(GPU)
    logits = torch.zeros(2, made.channels, SIDE, SIDE, device=GPU)
    if (loss, task) == ("lovasz", "semantic3"):  # asks the host which classes there are
        with pytest.raises(DataDependentOutputException):
            made.loss()(logits, target)
        return
    assert move(made.loss())(logits, target).device == GPU


@pytest.mark.parametrize("task", ["semantic2", "semantic3", "stardist"])
def test_validation_up_to_the_host(fake: FakeTensorMode, task: str) -> None:
    module = made(TrialConfig(task=task, architecture="Linknet", encoder=ENCODER))
    module.eval()
    labels = cells()[:100]
    logits = predict_logits(
        module.network,
        np.zeros(labels.shape, np.float32),
        module.scaling,
        "32-true",
        inference=Inference(),
        grid=module.task.grid,
    )
    assert logits.device == GPU
    target = torch.from_numpy(module.task.target(labels))[None].to(logits.device)
    assert module.loss(logits[None], target).device == GPU
    assert module.task.probability(logits).device == GPU


class Forgotten(nn.Module):
    """A loss with a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.ones(2, 1, SIDE, SIDE)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((logits - target) * self.weights).mean()


def test_a_tensor_that_was_left_behind_raises(fake: FakeTensorMode) -> None:
    module = made(TrialConfig(architecture="Linknet", encoder=ENCODER))
    module.loss = move(Forgotten())
    with pytest.raises(RuntimeError, match=r"cuda:0.*cpu|cpu.*cuda:0"):
        step(module)
    module.network.scale = torch.ones(SIDE)
    module.network.register_forward_pre_hook(lambda one, x: (x[0] * one.scale,))
    with pytest.raises(RuntimeError, match=r"cuda:0.*cpu|cpu.*cuda:0"):
        module.network(torch.zeros(2, 1, SIDE, SIDE, device=GPU))
