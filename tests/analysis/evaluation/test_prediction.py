"""Maps of one image: a network of known reach stands in for a trained one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from analysis.evaluation.prediction import predict_maps
from trainables.config import TrialConfig
from trainables.data.normalization import normalize
from trainables.starconvex import star_targets
from trainables.tiling import WHOLE, Inference, tiled


class Blur:
    """A network whose output depends on pixels up to 20 px away."""

    info: dict[str, Any]

    def __init__(self, inference: Inference = WHOLE) -> None:
        self.info = {}
        self.config = TrialConfig(architecture="Unet", encoder="resnet18")
        self.inference = inference
        self.shapes: list[tuple[int, ...]] = []

    def normalize(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        return normalize(image, self.config.normalization)

    def maps(
        self, normalized: NDArray[np.float32], inference: Inference | None = None
    ) -> NDArray[np.float32]:
        def once(part: NDArray[np.float32]) -> NDArray[np.float32]:
            self.shapes.append(part.shape)
            blurred: NDArray[np.float32] = ndimage.gaussian_filter(part, 5, truncate=4)
            return blurred[None]

        side = (self.inference if inference is None else inference).side(normalized.shape)
        return once(normalized) if side is None else tiled(once, normalized, side)

    def close(self) -> None:
        pass


def noise(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    image: NDArray[np.uint16] = (1000 + 3000 * (smooth - smooth.min())).astype(np.uint16)
    return image


@pytest.mark.parametrize("shape", [(904, 1224), (1280, 928), (100, 100), (64, 700), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_images_of_any_size_and_depth_are_predicted_whole(
    shape: tuple[int, int], dtype: type[np.generic]
) -> None:
    network = Blur()
    image = (noise(shape) // 64).astype(dtype)
    maps = predict_maps(network, image)
    assert maps.shape == (1, *shape)
    assert network.shapes == [shape]


def test_tiles_agree_with_the_whole_image_everywhere() -> None:
    network, image = Blur(), noise((700, 900))
    whole = predict_maps(network, image, tile="whole")
    parts = predict_maps(network, image, tile=256)
    assert len(network.shapes) > 10
    assert max(max(s) for s in network.shapes[1:]) == 256
    assert np.abs(whole - parts).max() < 1e-5, "the margin is wider than the network sees"


def test_images_are_predicted_as_the_checkpoint_says() -> None:
    image = noise((200, 260))
    network = Blur(Inference(128))
    predict_maps(network, image)
    assert set(network.shapes) == {(128, 128)}
    network = Blur(Inference(None, 100 * 100))  # no larger image was validated
    predict_maps(network, image)
    assert set(network.shapes) == {(96, 96)}
    network.shapes.clear()
    predict_maps(network, image, tile="whole")
    assert network.shapes == [(200, 260)]


class Polygons:
    """A network that sees the true star-convex maps, on a grid."""

    info: dict[str, Any]

    def __init__(self, labels: NDArray[np.integer], grid: int) -> None:
        self.info = {}
        self.config = TrialConfig(
            architecture="Unet", encoder="resnet18", task="stardist", grid=grid
        )
        self.labels = labels
        self.inference = Inference()

    def normalize(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        return normalize(image, self.config.normalization)

    def maps(
        self, normalized: NDArray[np.float32], inference: Inference | None = None
    ) -> NDArray[np.float32]:
        labels = np.rint(normalized * self.labels.max()).astype(int)
        return star_targets(labels, self.config.rays, self.config.grid)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("grid", [1, 2, 4])
@pytest.mark.parametrize("shape", [(200, 231), (97, 128)])
def test_mirror_images_are_turned_back(grid: int, shape: tuple[int, int]) -> None:
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape, np.float32)
    image[((yy - 40) / 20) ** 2 + ((xx - 60) / 33) ** 2 <= 1] = 1
    image[((yy - 70) / 12) ** 2 + ((xx - 100) / 9) ** 2 <= 1] = 1
    network = Polygons(image.astype(int), grid)
    assert np.array_equal(normalize(image, network.config.normalization) > 0, image > 0)
    once, average = predict_maps(network, image), predict_maps(network, image, flips=True)
    assert once.shape == average.shape
    inside = once[0] > 0
    assert np.abs(once[0] - average[0]).max() < 1e-5
    # stardist walks along its rays in steps of a pixel
    assert np.abs(once[1:] - average[1:])[:, inside].max() < 1.5


def test_flips_of_an_odd_number_of_rays_are_refused() -> None:
    network = Polygons(np.ones((40, 40), int), 1)
    network.config = network.config.model_copy(update={"rays": 33})
    with pytest.raises(ValueError, match="even number of rays"):
        predict_maps(network, np.eye(40), flips=True)


def test_what_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        predict_maps(Blur(), np.zeros((3, 10, 10)))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        predict_maps(Blur(), np.zeros((0, 10)))
    with pytest.raises(ValueError, match="multiple of 32"):
        predict_maps(Blur(), np.zeros((10, 10)), tile=100)
    with pytest.raises(ValueError, match="at least 64"):
        predict_maps(Blur(), np.zeros((10, 10)), tile=32)
    with pytest.raises(ValueError, match="auto, whole"):
        predict_maps(Blur(), np.zeros((10, 10)), tile="half")
