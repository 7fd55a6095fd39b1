"""Training losses by name, on logits.

All of them work for a batch without cells: false positives cost there, too.
"""

from __future__ import annotations

from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
from torch import nn

from trainables import extensions

SMOOTHING = 0.01
"""Fraction of a batch's pixels. A class with fewer true pixels is smoothed by the number that is
missing, so that a network that sees cells everywhere learns from an empty batch."""


class Overlap(nn.Module):
    """One minus the smoothed Tversky index over the whole batch, mean over classes.

    With TP, FP and FN summed over all pixels of the batch, a class costs
    ``1 - (TP + s) / (TP + false_positive * FP + false_negative * FN + s)``. Weights of one half
    make it the Dice loss, the paper's choice, weights of 1 the Jaccard loss.

    The smoothing s is 0 for a class that has at least `SMOOTHING` of the batch's pixels, which is
    the usual case; for a rarer class it makes up the difference. If a class is absent, false
    positives cost ``false_positive * FP / (false_positive * FP + s)``: nothing for a network that
    predicts none. The usual smoothing by a single pixel would leave no gradient while FP is a
    hundred thousand pixels.

    Parameters
    ----------
    mode : {"binary", "multiclass"}
    false_positive, false_negative : float
        Weights of false pixels, relative to a true positive.

    References
    ----------
    .. [1] Milletari et al. 2016, "V-Net", doi 10.1109/3DV.2016.79 (Dice)
    .. [2] Salehi et al. 2017, "Tversky loss function for image segmentation using 3D fully
       convolutional deep networks", doi 10.1007/978-3-319-67389-9_44
    """

    def __init__(self, mode: str, false_positive: float, false_negative: float) -> None:
        super().__init__()
        self.binary = mode == "binary"
        self.false_positive, self.false_negative = false_positive, false_negative

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor."""
        if self.binary:
            probability, truth = torch.sigmoid(logits), target
        else:
            probability = torch.softmax(logits, 1)
            truth = nn.functional.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        overlap = (probability * truth).sum((0, 2, 3))
        false_positive = probability.sum((0, 2, 3)) - overlap
        false_negative = truth.sum((0, 2, 3)) - overlap
        pixels = logits.numel() / logits.shape[1]
        right = overlap + (SMOOTHING * pixels - truth.sum((0, 2, 3))).clamp_min(0)
        wrong = self.false_positive * false_positive + self.false_negative * false_negative
        return (wrong / (right + wrong)).mean()


class Focal(nn.Module):
    """Focal loss with an exponent of 2: ``-(1 - p)^2 log p`` of the true class's probability p.

    With several classes it is the sum of two parts, each a focal loss: foreground or not and, for
    pixels of the foreground, which of its classes. A focal loss of a softmax over all classes is
    not used, because it flattens probabilities [2]_: its optimum for a background of .60 beside two
    classes of .20 is .48, and the pixel would be called foreground. Here, as with two classes,
    what is more probable than one half stays so.

    Parameters
    ----------
    mode : {"binary", "multiclass"}
        With several classes, class 0 is the background.

    References
    ----------
    .. [1] Lin et al. 2017, "Focal loss for dense object detection", doi 10.1109/ICCV.2017.324
    .. [2] Charoenphakdee et al. 2021, "On focal loss for class-posterior probability estimation: a
       theoretical perspective", doi 10.1109/CVPR46437.2021.00516
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.binary = mode == "binary"

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor, the mean over pixels."""
        if self.binary:
            signs = 2 * target - 1
            return _focal_term(nn.functional.logsigmoid(signs * logits)).mean()
        cells = torch.logsumexp(logits[:, 1:], 1) - logits[:, 0]
        signs = 2.0 * (target > 0) - 1
        log_which = torch.log_softmax(logits[:, 1:], 1)
        number = (target - 1).clamp_min(0)[:, None]
        which = _focal_term(log_which.gather(1, number)[:, 0])
        either = _focal_term(nn.functional.logsigmoid(signs * cells))
        return (either + (target > 0) * which).mean()


def _focal_term(log_probability: torch.Tensor) -> torch.Tensor:
    return -((1 - log_probability.exp()) ** 2) * log_probability


class Lovasz(nn.Module):
    """Lovasz hinge for two classes, Lovasz softmax for several, over the whole batch.

    Without a cell in the batch the hinge would depend on the worst pixel only; instead, the mean
    hinge over all pixels is used.

    References
    ----------
    .. [1] Berman et al. 2018, "The Lovasz-Softmax loss", doi 10.1109/CVPR.2018.00464
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.binary = mode == "binary"
        self.loss = smp.losses.LovaszLoss(mode, per_image=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor."""
        loss: torch.Tensor = self.loss(logits, target)
        if not self.binary:
            return loss
        # chosen on the device: asking whether there is a cell would wait for it
        return torch.where(target.any(), loss, torch.relu(1 + logits).mean())


class CrossEntropy(nn.Module):
    """Mean cross-entropy per pixel, binary or over classes."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.binary = mode == "binary"

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor."""
        if self.binary:
            return nn.functional.binary_cross_entropy_with_logits(logits, target)
        return nn.functional.cross_entropy(logits, target)


class DiceCrossEntropy(nn.Module):
    """Sum of Dice loss and cross-entropy, as nnU-Net trains."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.dice, self.cross_entropy = Overlap(mode, 0.5, 0.5), CrossEntropy(mode)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss as a scalar tensor."""
        loss: torch.Tensor = self.dice(logits, target) + self.cross_entropy(logits, target)
        return loss


LOSSES: dict[str, Callable[[str], nn.Module]] = {
    "dice": lambda mode: Overlap(mode, 0.5, 0.5),
    "jaccard": lambda mode: Overlap(mode, 1.0, 1.0),
    "focal": Focal,
    "tversky": lambda mode: Overlap(mode, 0.3, 0.7),
    "lovasz": Lovasz,
    "cross_entropy": CrossEntropy,
    "dice_cross_entropy": DiceCrossEntropy,
}


def build_loss(name: str, *, classes: int = 1) -> nn.Module:
    """Make the loss of a given name.

    Parameters
    ----------
    name : str
        A key of `LOSSES`, or a name that `trainables.extensions` knows: what it stands for is
        called with ``classes=...``, and gives a loss like those here.
    classes : int
        1: binary, targets float (N, 1, H, W) of 0 and 1; above: targets int64 (N, H, W).

    Returns
    -------
    torch.nn.Module
        Called with logits (N, classes, H, W) and a target; returns a scalar.

    Raises
    ------
    ValueError
        When the name is not known, or does not give a loss.
    """
    if name in LOSSES:
        return LOSSES[name]("binary" if classes == 1 else "multiclass")
    if extensions.target_of(name, extensions.LOSSES) is None:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    loss = extensions.load_object(name, extensions.LOSSES)(classes=classes)
    if not isinstance(loss, nn.Module):
        raise ValueError(f"{name} gives a {type(loss).__name__}, not a torch.nn.Module")
    return loss
