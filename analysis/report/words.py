"""The words that a reader may not know: each linked where the page first uses it, and explained."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup, escape

PAPER = "Vasinkova et al. 2024, doi:10.1177/11779322241272387"
"""The study that a report repeats."""


class Word(NamedTuple):
    """One entry of the page's list of words."""

    key: str
    """Name of the entry's anchor, without ``word-``; a Python identifier."""
    shown: str
    pattern: str
    """Regular expression of its first use, in escaped text."""
    means: str


WORDS = (
    Word(
        "ap",
        "AP, mean AP",
        r"\b(?:[Mm]ean )?AP\b",
        "Average precision at an IoU: the number of cells found with at least that overlap, "
        "divided by the number of these, the missed and the wrong ones together. Mean AP is the "
        "mean over the IoU 0.5, 0.6, 0.7, 0.8 and 0.9. It is 1 if all is right.",
    ),
    Word(
        "bias",
        "bias",
        r"\b[Bb]ias(?:es)?\b",
        "How far a method's mean is from that of the ground truth, whatever the number of cells.",
    ),
    Word(
        "calibrated",
        "calibrated, default",
        r"\b[Cc]alibrat(?:ed|ion)\b|\b[Dd]efault (?:parameters|thresholds)\b",
        "Making cells from a network's output needs parameters, such as a threshold. Default: as "
        "the program sets them. Calibrated: as they gave the highest mean AP on validation images.",
    ),
    Word(
        "candidate",
        "candidate",
        r"\b[Cc]andidates?\b",
        "A network with all its settings. It may be trained several times, with different seeds.",
    ),
    Word(
        "circularity",
        "circularity",
        r"\b[Cc]ircularity\b",
        "4 π area / perimeter²: 1 for a circle, less for any other shape.",
    ),
    Word(
        "cliff",
        "Cliff's delta",
        r"\bCliff(?:'|&#39;)s delta\b",
        "Take one cell of a and one of b: how often the first one's value is larger, minus how "
        "often it is smaller. 0: neither is larger more often; 1 or -1: always the same one is.",
    ),
    Word(
        "concordance",
        "concordance correlation",
        r"\b[Cc]oncordance correlation\b",
        "1 if the value of each cell equals that of its true cell; less if values scatter or are "
        "all too large or too small.",
    ),
    Word(
        "interval",
        "confidence interval",
        r"\bconfidence intervals?\b",
        "The values that the data allow: in 95 % of such studies the interval contains the true "
        "value.",
    ),
    Word(
        "verdict",
        "equivalent, different, undecided",
        r"\b[Ee]quivalent\b|\b[Uu]ndecided\b|\bdifferent in\b|\bDifferent(?=:)",
        "What a test found. Equivalent: the difference is smaller than the margin. Different: it "
        "is larger than chance makes it, and not shown to be smaller than the margin. Undecided: "
        "neither; more units are needed.",
    ),
    Word(
        "f1",
        "F1",
        r"\bF1\b",
        "Twice the number of cells that were found, divided by the number of true and of predicted "
        "cells together. It is 1 if all are found and none is wrong.",
    ),
    Word(
        "fold",
        "fold",
        r"\b[Ff]olds?\b",
        "The groups that are not for testing are divided into folds. Each fold is for validation "
        "once, while networks are trained on the others.",
    ),
    Word(
        "gap",
        "gap given back",
        r"\bgap given back\b",
        "The watershed leaves a line of one pixel between touching cells, which makes cells too "
        "small. Here the pixels of that line are returned to the cells.",
    ),
    Word(
        "given",
        "given labels",
        r"\b[Gg]iven labels\b|\b[Ll]abels given\b",
        "Cells that something else has outlined: another program, or a second person. They are "
        "scored like the cells of a method.",
    ),
    Word(
        "truth",
        "ground truth, true cells",
        r"\b[Gg]round truth\b|\btrue cells?\b",
        "The cells as they were drawn by hand (or generated), with which all methods are compared.",
    ),
    Word(
        "hd95",
        "HD95",
        r"\bHD95\b",
        "95 % of a cell's outline is closer than this to the outline of its true cell, and the "
        "other way round: how far the outlines are apart where they differ most.",
    ),
    Word(
        "unit",
        "independent unit, group",
        r"\bindependent (?:units?|groups?|images?|tracks?|fields?)\b",
        "A group is a set of images that share their conditions (a field, a well, a patient). "
        "Cells of one group resemble each other, so a thousand cells of one group are no thousand "
        "observations. What does not depend on each other is a unit: a group, unless another unit "
        "was chosen. Tests and intervals count units.",
    ),
    Word(
        "iou",
        "IoU",
        r"\bIoU\b",
        "Intersection over union: the area that two outlines share, divided by the area that they "
        "cover together. 1: they are the same; 0: they do not overlap. IoU of the foreground: the "
        "same for all pixels of cells, whichever cell they belong to.",
    ),
    Word(
        "agreement",
        "limits of agreement",
        r"\b[Ll]imits of agreement\b",
        "For about 95 % of single cells the method's value minus the true one lies between these.",
    ),
    Word(
        "margin",
        "margin",
        r"\b[Mm]argin\b|\b[Hh]alf a pixel\b",
        "The largest difference that does not matter, since outlines are not known more precisely.",
    ),
    Word(
        "masd",
        "MASD",
        r"\bMASD\b",
        "Mean average surface distance: how far the outlines of a cell and its true cell are apart "
        "on average.",
    ),
    Word(
        "outcome",
        "missed, invented, merged, split",
        r"(?<!often )\b[Mm]issed\b|\b[Ii]nvented\b|\b[Mm]erged\b",
        "Missed: a true cell that was not found. Invented: a predicted cell where there is none. "
        "Merged: several true cells found as one. Split: one true cell found as several.",
    ),
    Word(
        "whitney",
        "Mann-Whitney test",
        r"\bMann-Whitney\b",
        "A test whether the cells of a have larger values than those of b. It takes all cells for "
        "independent.",
    ),
    Word(
        "maxt",
        "max-T",
        r"\bmax-T\b",
        "A correction for testing several differences at once: the largest one is compared with "
        "the largest one that chance gives.",
    ),
    Word(
        "tied",
        "may be the best, tied",
        r"\b[Mm]ay be the best\b|\bstatistically tied\b",
        "The data do not show that another method is better. That does not mean that tied methods "
        "are equal: more units might show a difference.",
    ),
    Word(
        "nested",
        "nested",
        r"\b[Nn]ested\b",
        "Each group of validation images is scored with parameters that were chosen without it, so "
        "that tuning does not make the score too high.",
    ),
    Word(
        "noise",
        "noise floor",
        r"\b[Nn]oise floor\b",
        "By how much a feature of a perfect outline changes only because it is drawn on pixels.",
    ),
    Word(
        "p",
        "p",
        r"\bp(?= is at most)",
        "How often a difference at least as large would be found if there were none.",
    ),
    Word(
        "pq",
        "PQ",
        r"\bPQ\b",
        "Panoptic quality: F1 at an IoU of 0.5, multiplied by the mean IoU of the cells found.",
    ),
    Word(
        "seed",
        "seed",
        r"(?<!-)\b[Ss]eeds?\b",
        "Training is partly random. Each seed, a number, is one training of the same candidate.",
    ),
    Word(
        "seg",
        "SEG",
        r"\bSEG\b",
        "Score of the Cell Tracking Challenge: the mean IoU of all true cells with the cells that "
        "cover more than half of them; 0 for a true cell without one.",
    ),
    Word(
        "index",
        "shape index",
        r"\b[Ss]hape index\b",
        "Perimeter / √area: 3.54 for a circle, more for any other shape.",
    ),
    Word(
        "solidity",
        "solidity",
        r"\b[Ss]olidity\b",
        "The area of a cell divided by that of the smallest shape without dents around it: 1 "
        "without dents.",
    ),
    Word(
        "star",
        "star-convex, StarDist",
        r"\b[Ss]tar-convex\b|\bStarDist\b",
        "A shape is star-convex if its whole outline can be seen from one point inside. StarDist, "
        "and networks with a star-convex head, predict how far the outline is in each direction.",
    ),
    Word(
        "paper",
        "the paper",
        r"\b[Tt]he paper\b",
        f"{PAPER}, Bioinformatics and Biology Insights 18: the study that this report repeats.",
    ),
    Word(
        "split",
        "training, validation, test images",
        r"\b(?:[Vv]alidation|[Tt]est) images?\b",
        "Networks learn from training images. Networks, parameters and the recommended method are "
        "chosen on validation images. Test images show what to expect of new images.",
    ),
    Word(
        "classes",
        "2-class, 3-class",
        r"\b[23]-class\b",
        "2-class: the network tells cell from background, and a watershed separates touching "
        "cells. 3-class: the network also marks the boundary of cells, which separates them.",
    ),
)
_ANY = re.compile("|".join(f"(?P<{word.key}>{word.pattern})" for word in WORDS))
_TAG = re.compile(r"(<[^>]*>)")
_WITHOUT = re.compile(r"<(/?)(a|button|code|table|h[1-6])\b")
"""Elements in which no word is linked."""


@dataclass
class Linker:
    """Links each word where it is first used, in the order of calls, and knows which were used."""

    used: set[str] = field(default_factory=set)

    def __call__(self, text: str) -> Markup:
        """Return a text with its new words linked to their explanations.

        Parameters
        ----------
        text : str or Markup
            Plain text is escaped; markup keeps its tags.
        """
        parts, closed = [], 0
        for part in _TAG.split(str(escape(text))):
            if found := _WITHOUT.match(part):
                closed += -1 if found.group(1) else 1
            elif not closed and not part.startswith("<"):
                part = _ANY.sub(self._link, part)
            parts.append(part)
        return Markup("".join(parts))

    def _link(self, found: re.Match[str]) -> str:
        key, text = str(found.lastgroup), found.group()
        if key in self.used:
            return text
        self.used.add(key)
        return f'<a class="word" href="#word-{key}">{text}</a>'

    def words(self) -> list[Word]:
        """Return the words that were linked, in the order in which a reader looks for them."""
        used = [word for word in WORDS if word.key in self.used]
        return sorted(used, key=lambda word: word.shown.removeprefix("the ").lower())
