"""Dilated VGG and InceptionResNetV2 against their strided originals."""

from __future__ import annotations

from functools import cache

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn
from torch.nn import functional as F

from trainables.encoders.dilated import DILATED, DenseMaxPool2d, dilate
from trainables.encoders.names import SMP_ENCODERS

torch.set_num_threads(1)


@cache
def _strided(name: str) -> nn.Module:
    torch.manual_seed(0)
    strided: nn.Module = get_encoder(name, in_channels=1, weights=None)
    for module in strided.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    return strided.double().eval()


def _pair(name: str, output_stride: int) -> tuple[nn.Module, nn.Module]:
    """Make a strided and a dilated encoder with the same weights, in double precision."""
    strided = _strided(name)
    with torch.device("meta"):  # the weights are replaced
        dilated = get_encoder(
            DILATED[name], in_channels=1, weights=None, output_stride=output_stride
        )
    nn.Module.load_state_dict(dilated, strided.state_dict(), assign=True)
    return strided, dilated.eval()


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["vgg19", "vgg11_bn", "inceptionresnetv2"])
def test_dilated_features_on_the_coarse_grid_are_the_strided_ones(
    name: str, output_stride: int
) -> None:
    strided, dilated = _pair(name, output_stride)
    x = torch.randn(1, 1, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = strided(x), dilated(x)
    assert len(coarse) == len(fine) == 6
    for level, (a, b) in enumerate(zip(coarse, fine, strict=True)):
        stride = min(2**level, output_stride)
        assert b.shape[2:] == (64 // stride, 96 // stride)
        step = 2**level // stride
        # Borders included: the padding outside of the image is the same for both.
        difference = (b[:, :, ::step, ::step] - a).abs().max() / a.abs().max()
        assert difference < 1e-9, (level, float(difference))
    assert dilated.output_stride == output_stride


def test_without_dilated_poolings_the_features_differ() -> None:
    strided, dilated = _pair("vgg19", 8)
    for module in dilated.modules():
        if isinstance(module, DenseMaxPool2d) and module.dilation != 1:
            module.dilation = 1
            module.margin = (0, 1, 0, 1)
    x = torch.randn(1, 1, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        a, b = strided(x)[-1], dilated(x)[-1][:, :, ::4, ::4]
    assert (a - b).abs().mean() / a.abs().mean() > 0.01


@pytest.mark.parametrize("name", ["vgg16_bn", "inceptionresnetv2"])
def test_state_dicts_keep_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        shapes = [
            {key: value.shape for key, value in get_encoder(n, **options).state_dict().items()}
            for n, options in (
                (name, {}),
                (DILATED[name], {}),
                (DILATED[name], {"output_stride": 16}),
                (DILATED[name], {"output_stride": 8}),
            )
        ]
    assert shapes[0] == shapes[1] == shapes[2] == shapes[3]


def test_library_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match="dilated"):
        get_encoder("vgg19", weights=None, output_stride=8)
    assert set(smp.encoders.encoders) - set(DILATED.values()) == set(SMP_ENCODERS)
    assert tuple(sorted(SMP_ENCODERS)) == SMP_ENCODERS


@pytest.mark.parametrize("name", ["vgg11", "inceptionresnetv2"])
def test_other_output_strides_are_refused(name: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="must be 8 or 16, got 4"):
        get_encoder(DILATED[name], weights=None, output_stride=4)


def test_dense_max_pool_by_hand() -> None:
    x = torch.tensor([[[[-5.0, -1.0, -4.0, -2.0]]]]).expand(1, 1, 2, 4)
    # Windows of two neighbours; the last column has none to its right.
    assert DenseMaxPool2d(2, 0, 1)(x)[0, 0].tolist() == [[-1.0, -1.0, -2.0, -2.0]] * 2
    # The neighbour is two pixels away.
    assert DenseMaxPool2d(2, 0, 2)(x)[0, 0].tolist() == [[-4.0, -1.0, -4.0, -2.0]] * 2
    # Three pixels, centred.
    assert DenseMaxPool2d(3, 1, 1)(x)[0, 0].tolist() == [[-1.0, -1.0, -1.0, -2.0]] * 2


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7])),
    rate=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_a_dilated_convolution_computes_every_phase_of_the_plain_one(
    kernel: tuple[int, int], rate: int, height: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    plain = nn.Conv2d(2, 3, kernel, padding=(kernel[0] // 2, kernel[1] // 2)).double()
    dilated = nn.Conv2d(2, 3, kernel, padding=(kernel[0] // 2, kernel[1] // 2)).double()
    dilated.load_state_dict(plain.state_dict())
    assert dilate(dilated, rate) is dilated
    x = torch.randn(1, 2, height * rate, width * rate, dtype=torch.float64)
    y = dilated(x)
    assert y.shape[2:] == x.shape[2:]
    for i in range(rate):
        for j in range(rate):
            torch.testing.assert_close(
                y[:, :, i::rate, j::rate], plain(x[:, :, i::rate, j::rate].contiguous())
            )


@settings(max_examples=40, deadline=None)
@given(
    window=st.sampled_from([(2, 0), (3, 1)]),
    rate=st.integers(1, 4),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_a_dense_pooling_on_the_coarse_grid_is_the_strided_one(
    window: tuple[int, int], rate: int, height: int, width: int, seed: int
) -> None:
    size, padding = window
    torch.manual_seed(seed)
    x = torch.randn(1, 2, 2 * height * rate, 2 * width * rate)
    dense = dilate(nn.MaxPool2d(size, 2, padding), rate)(x)
    strided = F.max_pool2d(x[:, :, ::rate, ::rate], size, 2, padding)
    assert dense.shape == x.shape
    assert torch.equal(dense[:, :, :: 2 * rate, :: 2 * rate], strided)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3),
        nn.Conv2d(1, 1, 3, dilation=2),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d((2, 3)),
        DenseMaxPool2d(2, 0, 1),
    ],
)
def test_what_has_no_dilated_form_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="cannot dilate"):
        dilate(nn.Sequential(layer), 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dense_max_pool_in_half_precision(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 3, 3), -3.0, dtype=dtype)
    assert torch.equal(DenseMaxPool2d(3, 1, 2)(x), x)
