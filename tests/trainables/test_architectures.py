"""One contract that every architecture and encoder passes."""

from __future__ import annotations

import doctest
import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainables.architectures import (
    NETWORKS,
    SMALLEST_INPUT,
    build_model,
    count_parameters,
    input_divisor,
)
from trainables.config import ARCHITECTURES, PAPER_ENCODERS
from trainables.encoders import names as encoder_names
from trainables.encoders.names import check_encoder

torch.set_num_threads(1)

DIVISORS = {"DeepLabV3": 8, "DeepLabV3Plus": 16, "PAN": 16}

# Vasinkova et al. 2024, Table 1: millions of parameters with ResNet-152.
TABLE_1 = {
    "Unet": 67.2,
    "UnetPlusPlus": 83.6,
    "MAnet": 182,
    "Linknet": 65.8,
    "FPN": 60.8,
    "DeepLabV3": 74.3,
    "DeepLabV3Plus": 61.3,
    "PAN": 58.9,
}

# Networks that segmentation-models-pytorch does not build, with one input channel.
DILATED_CELLS = {
    ("DeepLabV3", "vgg19"): 24.7,
    ("DeepLabV3Plus", "vgg19"): 21.2,
    ("PAN", "vgg19"): 20.5,
    ("DeepLabV3", "inceptionresnetv2"): 66.6,
    ("DeepLabV3Plus", "inceptionresnetv2"): 56.8,
    ("PAN", "inceptionresnetv2"): 54.9,
}


def _millions(model: torch.nn.Module) -> float:
    return float(f"{count_parameters(model) / 1e6:.3g}")


def test_registry_is_the_papers() -> None:
    assert tuple(NETWORKS) == ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameter_counts_are_those_of_table_1(architecture: str) -> None:
    with torch.device("meta"):
        model = build_model(architecture, "resnet152", in_channels=3)
    assert _millions(model) == TABLE_1[architecture]


@pytest.mark.parametrize(("architecture", "encoder"), DILATED_CELLS)
def test_dilated_cells_have_their_shapes_and_sizes(architecture: str, encoder: str) -> None:
    with torch.device("meta"):
        model = build_model(architecture, encoder)
        features = model.get_submodule("encoder").to("meta")(torch.empty(1, 1, 224, 224))
    assert _millions(model) == DILATED_CELLS[architecture, encoder]
    side = 28 if architecture == "DeepLabV3" else 14
    assert features[-1].shape[2:] == (side, side)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contract(architecture: str) -> None:
    model = build_model(architecture, "resnet18", classes=33)
    divisor = input_divisor(model)
    assert divisor == DIVISORS.get(architecture, 32)
    smallest = SMALLEST_INPUT.get(architecture, divisor)
    for height, width in ((smallest, smallest + divisor), (128, 128 + divisor)):
        logits = model(torch.randn(2, 1, height, width))
        assert logits.shape == (2, 33, height, width)
        assert logits.dtype == torch.float32
    assert logits.min() < 0 < logits.max()
    logits.mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("architecture", SMALLEST_INPUT)
def test_smallest_input_is_the_smallest(architecture: str) -> None:
    model = build_model(architecture, "resnet18")
    side = SMALLEST_INPUT[architecture] - input_divisor(model)
    with pytest.raises(RuntimeError, match="too small"):
        model(torch.randn(2, 1, side, side))


@pytest.mark.parametrize("architecture", ["DeepLabV3", "PAN"])
def test_resnest_in_dilated_mode(architecture: str) -> None:
    with torch.device("meta"):
        model = build_model(architecture, "resnest269", in_channels=3, classes=2)
        assert model(torch.empty(2, 3, 128, 160)).shape == (2, 2, 128, 160)


def test_same_seed_same_network() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model("U-Net", "tu-resnet18").state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))
    assert not all(torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values()))


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("Wnet", "resnet18", "unknown architecture 'Wnet'"),
        ("StarDist", "resnet18", "stardist's own model"),
        ("Unet", "resnet19", "unknown encoder 'resnet19'; similar: .*resnet18"),
        ("Unet", "tu-", "unknown encoder 'tu-'"),
        ("Unet", "tu-resnet19", "unknown encoder 'tu-resnet19': timm .* similar: .*tu-resnet18"),
        ("Unet", "tu-resnet18.nonsense", "its tags in timm are .*a1_in1k"),
        ("Unet", "timm-resnest269e", "timm's encoders are named 'tu-resnest269e'"),
        ("PAN", "densenet121", "PAN cannot use encoder 'densenet121': .*dilated"),
        ("UnetPlusPlus", "mit_b0", "UnetPlusPlus cannot use encoder 'mit_b0'"),
    ],
)
def test_wrong_names_are_said_in_one_line(architecture: str, encoder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_model(architecture, encoder)
    assert "\n" not in str(caught.value)


def test_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    colour = build_model("Unet", "resnet18", in_channels=3)
    encoder = colour.get_submodule("encoder").eval()
    torch.save(encoder.state_dict(), tmp_path / "resnet18.pth")
    grey = build_model("DeepLabV3", "resnet18", encoder_weights=tmp_path / "resnet18.pth")
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        a = encoder(x.expand(1, 3, 32, 32))[3]
        b = grey.get_submodule("encoder").eval()(x)[3]
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for weights in (None, "none"):
        random = build_model("Unet", "resnet18", encoder_weights=weights)
        key = "encoder.layer1.0.conv1.weight"
        assert not torch.equal(random.state_dict()[key], colour.state_dict()[key])


def test_names_are_checked_without_torch() -> None:
    code = (
        "import sys, trainables.encoders.names as names, trainables.encoders.weights as weights\n"
        "names.check_encoder('resnet18'); weights.resolve('resnet18', 'none')\n"
        "assert not {'torch', 'timm', 'segmentation_models_pytorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in (*PAPER_ENCODERS, "tu-anything"):
        check_encoder(name)
    assert doctest.testmod(encoder_names).attempted == 2
    assert doctest.testmod(encoder_names).failed == 0
    with pytest.raises(ValueError, match="unknown encoder 'zzz'; timm's encoders are named"):
        check_encoder("zzz")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", PAPER_ENCODERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_cell_runs_forward_and_backward(architecture: str, encoder: str) -> None:
    torch.manual_seed(0)
    model = build_model(architecture, encoder)
    side = SMALLEST_INPUT.get(architecture, 32)
    logits = model(torch.randn(2, 1, side, side))
    assert logits.shape == (2, 1, side, side)
    assert logits.isfinite().all()
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        # Modules that a decoder never calls have no gradient: what has one must be finite.
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    first = next(model.get_submodule("encoder").parameters())
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    del model, logits, first
    gc.collect()
