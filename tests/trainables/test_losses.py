"""Every loss, of two classes and of three: truth is best, and a batch without cells teaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml

from trainables.config import TrialConfig
from trainables.data.dataset import open_dataset
from trainables.labels import semantic2_target, semantic3_target
from trainables.losses import LOSSES, build_loss
from trainables.starconvex import star_targets
from trainables.starconvex_loss import StarConvexLoss
from trainables.train import train

EVERY = pytest.mark.parametrize(("name", "classes"), [(n, c) for n in LOSSES for c in (1, 3)])
SIDE = 96


def batch(classes: int, cells: int) -> torch.Tensor:
    """Targets of four crops with so many square cells of 16 px each (1: a sliver of 2 x 10 px)."""
    labels = np.zeros((4, SIDE, SIDE), np.int32)
    if cells == 1:
        labels[0, :2, :10] = 1
    else:
        for number in range(cells):
            y, x = divmod(number, 4)
            labels[:, 6 + 24 * y : 22 + 24 * y, 2 + 24 * x : 18 + 24 * x] = number + 1
    if classes == 1:
        return torch.from_numpy(np.stack([semantic2_target(a)[None] for a in labels]))
    return torch.from_numpy(np.stack([semantic3_target(a) for a in labels]))


def certain(target: torch.Tensor, classes: int, size: float = 10.0) -> torch.Tensor:
    """Logits of the truth."""
    if classes == 1:
        return size * (2 * target - 1)
    return size * (2 * torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float() - 1)


def foreground(logits: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] == 1:
        return torch.sigmoid(logits[:, 0])
    return 1 - torch.softmax(logits, 1)[:, 0]


def push(name: str, classes: int, target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Gradient towards less foreground at each pixel."""
    logits = logits.clone().requires_grad_()
    build_loss(name, classes=classes)(logits, target).backward()
    assert logits.grad is not None
    return logits.grad[:, 0] if classes == 1 else -logits.grad[:, 0]


@EVERY
@pytest.mark.parametrize("cells", [0, 1, 12])
def test_the_truth_costs_nothing(name: str, classes: int, cells: int) -> None:
    target = batch(classes, cells)
    loss = build_loss(name, classes=classes)
    truth = float(loss(certain(target, classes), target))
    assert 0 <= truth < 0.01
    wrong = float(loss(certain(target, classes, -10), target))
    undecided = float(loss(torch.zeros(4, classes, SIDE, SIDE), target))
    assert truth + 0.1 < undecided < wrong


@EVERY
@pytest.mark.parametrize("cells", [0, 1])
@pytest.mark.parametrize("level", [0.0, -0.9, -2.0])
def test_false_cells_cost_where_there_are_none(
    name: str, classes: int, cells: int, level: float
) -> None:
    """An empty batch, and one in which a cell just shows at the edge; an undecided network, and
    two that see a foreground of little probability everywhere.
    """
    logits = torch.zeros(4, classes, SIDE, SIDE)
    logits[:, classes != 1 :] = level
    if name == "lovasz" and classes == 1 and level < -1:  # beyond the hinge's margin
        assert not push(name, classes, batch(classes, 0), logits).any()
        return
    crowd, few = batch(classes, 12), batch(classes, cells)
    full = push(name, classes, crowd, logits)[crowd.reshape(4, SIDE, SIDE) == 0]
    empty = push(name, classes, few, logits)[few.reshape(4, SIDE, SIDE) == 0]
    assert (empty >= 0).all()
    if cells == 0:
        assert (empty > 0).all()
    assert empty.sum() >= 0.1 * full.sum()


@EVERY
def test_training_on_empty_crops_removes_false_cells(name: str, classes: int) -> None:
    target = batch(classes, 0)
    logits = torch.zeros(4, classes, SIDE, SIDE)
    logits[:, 1 if classes > 1 else 0, 20:40, 20:40] = 1.0
    bias = torch.zeros(1, classes, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.1)
    loss = build_loss(name, classes=classes)
    before = foreground(logits)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits + bias, target).backward()
        optimizer.step()
    after = foreground(logits + bias.detach())
    assert (before >= 0.5).all()
    assert after.max() < 0.5
    assert after.mean() < 0.3  # at -1, the Lovasz hinge is content


@EVERY
def test_a_batch_of_nothing_but_cell(name: str, classes: int) -> None:
    """Crops that lie within large cells: the truth costs nothing, missed cells are learnt."""
    labels = np.ones((4, SIDE, SIDE), np.int32)
    make = semantic3_target if classes > 1 else lambda a: semantic2_target(a)[None]
    target = torch.from_numpy(np.stack([make(a) for a in labels]))
    loss = build_loss(name, classes=classes)
    assert 0 <= float(loss(certain(target, classes), target)) < 0.01
    logits = torch.zeros(4, classes, SIDE, SIDE)
    assert (push(name, classes, target, logits) < 0).all(), "pixels are drawn to the foreground"
    logits[:, 0] = 2.0 if classes > 1 else -2.0  # a network that misses them
    assert torch.isfinite(push(name, classes, target, logits)).all()
    bias = torch.zeros(1, classes, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([bias], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits + bias, target).backward()
        optimizer.step()
    assert foreground(logits + bias.detach()).min() > 0.5


@pytest.mark.parametrize("cells", [0, 1])
def test_star_convex_crops_without_a_cell_or_with_nothing_else(cells: int) -> None:
    """An empty crop teaches that there is nothing, one within a large cell its distances too."""
    labels = np.full((SIDE, SIDE), cells, np.int32)
    target = torch.from_numpy(star_targets(labels, 8, 2))[None]
    raw = torch.zeros(1, 9, SIDE // 2, SIDE // 2, requires_grad=True)
    loss = StarConvexLoss(8, 10.0)
    value = loss(raw, target)
    value.backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()
    if cells:
        far = target[0, 1:] > 20  # beyond what softplus of 0 gives
        assert (raw.grad[0, 1:][far] < 0).all()
        assert (raw.grad[0, 0][target[0, 0] > 0.6] < 0).all()
    else:
        assert (raw.grad[0, 0] > 0).all()
    with torch.no_grad():
        wrong = torch.cat([torch.full_like(raw[:, :1], 4 - 8 * cells), raw[:, 1:]], 1)
        assert float(loss(wrong, target)) > float(value) + 0.3


@EVERY
def test_losses_are_finite_for_certain_and_wrong_networks(name: str, classes: int) -> None:
    for cells in (0, 12):
        target = batch(classes, cells)
        for size in (-60.0, 60.0):
            logits = certain(target, classes, size).requires_grad_()
            value = build_loss(name, classes=classes)(logits, target)
            value.backward()
            assert torch.isfinite(value)
            assert logits.grad is not None
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("truth", [(0.6, 0.2, 0.2), (0.6, 0.3, 0.1), (0.6, 0.4, 0.0)])
@pytest.mark.parametrize("name", ["focal", "cross_entropy"])
def test_at_the_optimum_a_foreground_of_40_percent_is_background(
    name: str, truth: tuple[float, ...]
) -> None:
    """A pixel seen a hundred times, of which so many are background, cell, boundary."""
    shares = np.round(100 * np.array(truth)).astype(int)
    for background, expected in ((shares, False), (shares[[1, 0, 2]], True)):
        target = torch.from_numpy(np.repeat(np.arange(3), background)).reshape(100, 1, 1)
        logit = torch.zeros(1, 3, 1, 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([logit], max_iter=200, line_search_fn="strong_wolfe")

        def closure(
            logit: torch.Tensor = logit,
            target: torch.Tensor = target,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> torch.Tensor:
            optimizer.zero_grad()
            value: torch.Tensor = build_loss(name, classes=3)(logit.expand(100, 3, 1, 1), target)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        found = torch.softmax(logit.detach()[0, :, 0, 0], 0).numpy()
        assert (1 - found[0] >= 0.5) == expected
        # the order of the foreground's classes is that of the truth
        assert (found[1] > found[2]) == (background[1] > background[2]) or (
            background[1] == background[2]
        )
        if name == "cross_entropy":
            np.testing.assert_allclose(found, background / 100, atol=0.005)
        else:  # known: less certain than the truth, on the same side of one half
            low, high = sorted([0.5, background[0] / 100])
            assert low < found[0] < high


def test_focal_by_hand() -> None:
    """(1 - p)^2 * -log p of Lin et al., for two classes; cell or not and then which, for three."""

    def term(p: float) -> float:
        return float(-((1 - p) ** 2) * np.log(p))

    logits = torch.log(torch.tensor([0.2, 0.5, 0.3])).reshape(1, 3, 1, 1)
    focal = build_loss("focal", classes=3)
    for number, expected in enumerate(
        [term(0.2), term(0.8) + term(0.5 / 0.8), term(0.8) + term(0.3 / 0.8)]
    ):
        assert float(focal(logits, torch.tensor([[[number]]]))) == pytest.approx(expected, 1e-5)
    binary = build_loss("focal")
    logit = torch.logit(torch.tensor(0.8)).reshape(1, 1, 1, 1)
    assert float(binary(logit, torch.ones(1, 1, 1, 1))) == pytest.approx(term(0.8), 1e-5)
    assert float(binary(logit, torch.zeros(1, 1, 1, 1))) == pytest.approx(term(0.2), 1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_cross_entropy_and_lovasz_are_the_librarys(classes: int) -> None:
    """Over the whole batch, whose crops hold unequally many cells; and the sum with Dice."""
    import segmentation_models_pytorch as smp

    target = torch.cat([batch(classes, 12)[:2], batch(classes, 2)[:2]])
    logits = torch.randn((4, classes, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    values = {name: float(build_loss(name, classes=classes)(logits, target)) for name in LOSSES}
    probability = torch.sigmoid(logits) if classes == 1 else torch.softmax(logits, 1)
    true = (
        probability.gather(1, target[:, None])
        if classes > 1
        else (torch.where(target > 0, probability, 1 - probability))
    )
    assert values["cross_entropy"] == pytest.approx(float(-true.log().mean()), rel=1e-5)
    lovasz = smp.losses.LovaszLoss("binary" if classes == 1 else "multiclass", per_image=False)
    assert values["lovasz"] == pytest.approx(float(lovasz(logits, target)), rel=1e-5)
    both = values["dice"] + values["cross_entropy"]
    assert values["dice_cross_entropy"] == pytest.approx(both, rel=1e-5)


def test_overlap_losses_by_hand() -> None:
    """Four pixels, one of them a cell; probabilities .5 .5 0 0; smoothed by .04 without a cell."""
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[None, None]
    logits = torch.tensor([[0.0, 0.0], [-50.0, -50.0]])[None, None]
    for name, positive, negative in (
        ("dice", 0.5, 0.5),
        ("jaccard", 1.0, 1.0),
        ("tversky", 0.3, 0.7),
    ):
        loss = build_loss(name)
        expected = 1 - 0.5 / (0.5 + 0.5 * positive + 0.5 * negative)
        assert float(loss(logits, target)) == pytest.approx(expected, abs=1e-6)
        # one pixel's worth of false positives
        empty = float(loss(logits, torch.zeros_like(target)))
        assert empty == pytest.approx(positive / (positive + 0.04), abs=1e-6)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky"])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("certainty", [0.0, 0.5, 1.0, 2.0])
def test_batches_with_cells_cost_what_they_did(name: str, classes: int, certainty: float) -> None:
    """Loss and gradient are those of the library's unsmoothed loss."""
    import segmentation_models_pytorch as smp

    plain = {
        "dice": smp.losses.DiceLoss,
        "jaccard": smp.losses.JaccardLoss,
        "tversky": lambda mode: smp.losses.TverskyLoss(mode, alpha=0.3, beta=0.7),
    }[name]("binary" if classes == 1 else "multiclass")
    target = batch(classes, 12)
    noise = torch.randn((4, classes, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    gradients, values = [], []
    for loss in (plain, build_loss(name, classes=classes)):
        logits = (certain(target, classes, certainty) + noise).requires_grad_()
        value = loss(logits, target)
        value.backward()
        assert logits.grad is not None
        gradients.append(logits.grad.flatten())
        values.append(float(value.detach()))
    assert values[1] == pytest.approx(values[0], abs=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky"])
def test_batches_without_cells_cost_in_training(name: str, tmp_path: Path) -> None:
    """Of eight crops in four batches, one holds a cell; an untrained network sees many."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(3):
        labels = np.zeros((128, 256), np.uint16)
        labels[20:40, 20:40] = 1
        image = rng.normal(1000, 30, labels.shape) + 300 * labels
        tifffile.imwrite(tmp_path / f"data/images/i{number}.tif", image.astype(np.uint16))
        tifffile.imwrite(tmp_path / f"data/masks/i{number}.tif", labels)
    split = {"split": {"train": ["i0"], "val": ["i1"], "test": ["i2"]}}
    (tmp_path / "data" / "dataset.yaml").write_text(yaml.safe_dump(split))
    config = TrialConfig(
        encoder="mobilenet_v2",
        crop_size=64,
        batch_size=2,
        epochs=1,
        learning_rate=1e-9,
        augmentation="none",
        loss=name,
    )
    result = train(config, open_dataset(tmp_path / "data"), tmp_path / "t")
    assert result.history[0].train_loss > 0.6  # at most 0.25 where empty batches cost nothing


def test_losses_of_an_empty_batch_by_hand() -> None:
    """Two pixels of background: the Lovasz hinge is the mean hinge, and not that of the worst."""
    logits = torch.tensor([-0.5, -3.0]).reshape(1, 1, 1, 2)
    target = torch.zeros(1, 1, 1, 2)
    assert float(build_loss("lovasz")(logits, target)) == pytest.approx(0.25)
    expected = np.log1p(np.exp([-0.5, -3.0])).mean()
    assert float(build_loss("cross_entropy")(logits, target)) == pytest.approx(expected)


def test_a_loss_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lossesofmine.py").write_text(
        "from torch import nn\n\n\nclass Mine(nn.MSELoss):\n"
        "    def __init__(self, classes):\n        super().__init__()\n"
        "        self.classes = classes\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loss = build_loss("lossesofmine:Mine", classes=3)
    assert isinstance(loss, torch.nn.MSELoss)
    assert loss.classes == 3
    with pytest.raises(ValueError) as caught:
        build_loss("builtins:dict", classes=3)
    assert str(caught.value) == "builtins:dict gives a dict, not a torch.nn.Module"
    with pytest.raises(ValueError) as caught:
        build_loss("l2")
    known = "dice, jaccard, focal, tversky, lovasz, cross_entropy, dice_cross_entropy"
    assert str(caught.value) == f"unknown loss 'l2'; known: {known}"
