"""From one image's maps to counts and scores, as a protocol says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from PIL import Image
from skimage.filters import gaussian
from torch import Tensor

from conceptlens.bench.counts import BinaryCounts, ClassCounts
from conceptlens.bench.datasets.base import VOID, Sample
from conceptlens.bench.metrics import average_precision, pooled_average_precision, roc_auc
from conceptlens.bench.protocol import Concept, Protocol
from conceptlens.ops.grids import resize, unit_range

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}


@dataclass(frozen=True)
class Scored:
    """One image: counts that add up over images, and its own scores (NaN where there is none)."""

    counts: dict[str, Any]
    scores: dict[str, float]


def fit_image(image: Image.Image, protocol: Protocol) -> Image.Image:
    """The picture as the method gets it."""
    if protocol.image_size is None:
        return image
    side = (protocol.image_size, protocol.image_size)
    return image.resize(side, _FILTERS[protocol.image_filter])


def fit_labels(labels: Integer[np.ndarray, "height width"], protocol: Protocol) -> Integer[np.ndarray, "rows cols"]:
    """Labels at the size of the comparison, by nearest neighbour as PIL computes it (centres of pixels)."""
    if protocol.label_size is None:
        return labels
    stored = Image.fromarray((labels + 1).astype(np.uint16))
    small = stored.resize((protocol.label_size, protocol.label_size), Image.Resampling.NEAREST)
    return np.asarray(small).astype(np.int32) - 1


def score_image(
    scores: Float[Tensor, "concept rows cols"],
    concepts: Sequence[Concept],
    sample: Sample,
    classes: int,
    protocol: Protocol,
    *,
    background: bool,
) -> Scored:
    """Counts and scores of one image.

    Args:
        scores: raw scores on the method's own grid, one map per concept.
        concepts: what they are of, as `Protocol.concepts` gave them.
        sample: the truth.
        classes: how many the dataset has.
        protocol: the rules.
        background: class 0 is a background, to which all distractors belong.
    """
    labels = fit_labels(sample.labels, protocol)
    native = blurred(scores) if protocol.blur else scores.float()
    numbers = [concept.number for concept in concepts]
    if protocol.center:
        native = native - native.mean(dim=0)
    if protocol.task == "single":
        return _score_single(native, numbers.index(sample.present[0]), labels, protocol)
    return _score_multi(native, numbers, labels, classes, protocol, background)


def blurred(scores: Float[Tensor, "concept rows cols"]) -> Float[Tensor, "concept rows cols"]:
    """A Gaussian of sigma 1 over 3x3 cells, mirrored at the border."""
    smooth = [gaussian(m.numpy(), sigma=1, truncate=1, mode="mirror", preserve_range=True) for m in scores.float()]
    return torch.from_numpy(np.stack(smooth)).float()


def binary_mask(
    native: Float[Tensor, "concept rows cols"], target: int, distractors: list[int], protocol: Protocol
) -> Bool[Tensor, "rows cols"]:
    """The target's mask at the native grid: strictly above its mean, or argmax where no distractor wins."""
    if protocol.mask == "argmax":
        winner = native.argmax(dim=0)
        return ~torch.isin(winner, torch.tensor(distractors)) if distractors else winner == target
    # In double precision: in float32 the mean of a constant map may lie below it, and the mask would be everything.
    return native[target].double() > native[target].double().mean()


def _score_single(native: Tensor, target: int, labels: np.ndarray, protocol: Protocol) -> Scored:
    height, width = labels.shape
    others = [i for i in range(len(native)) if i != target]
    scored = resize(native[target][None], height, width, protocol.score_filter)[0]
    if protocol.clip:
        scored = scored.clamp_min(0)
    if protocol.stretch:
        scored = unit_range(scored)
        mask = (scored.double() > scored.double().mean()).numpy()
    else:
        mask = resize(binary_mask(native, target, others, protocol)[None].float(), height, width, "nearest")[0] > 0.5
        mask = mask.numpy()
    counts = BinaryCounts.of(mask, labels)
    valid = labels != VOID
    truth, raw = labels[valid] == 1, scored.numpy()[valid]
    # Stretched by the extremes of the native map, as in the official ImageNet script, unless it was clipped at the
    # label size; a constant map says nothing.
    extremes = scored if protocol.clip else native[target]
    constant = bool(extremes.max() <= extremes.min())
    stretched = resize(unit_range(extremes)[None], height, width, protocol.score_filter)[0].numpy()[valid]
    values = {
        "accuracy": counts.accuracy(protocol.void_accuracy),
        "iou": counts.iou(),
        "iou_paired": counts.iou("paired"),
        "ap_pooled_minmax": 0.5 if constant else pooled_average_precision(stretched, truth, normalize=False),
        "ap_pooled_raw": pooled_average_precision(raw, truth, normalize=False),
        "ap_foreground": average_precision(raw, truth),
        "auc": roc_auc(raw, truth),
    }
    return Scored({name: int(getattr(counts, name)) for name in counts.__dataclass_fields__}, values)


def _score_multi(
    native: Tensor,
    numbers: list[int],
    labels: np.ndarray,
    classes: int,
    protocol: Protocol,
    background: bool,
) -> Scored:
    height, width = labels.shape
    maps = resize(native, height, width, protocol.score_filter).numpy()
    # The official code decides on the native grid and enlarges the decision; with bilinear scores we decide in pixels.
    if protocol.score_filter == "nearest":
        winner = resize(native.argmax(dim=0)[None].float(), height, width, "nearest")[0].numpy().astype(int)
    else:
        winner = maps.argmax(axis=0)
    if protocol.relabel == "sequential":
        order = [n for n in numbers if n != VOID]
        predicted = relabel_sequentially(winner, len(numbers) - len(order), order)
    else:
        predicted = np.array([0 if n == VOID and background else n for n in numbers])[winner]
    if protocol.background_below is not None:
        predicted = np.where(_heights(maps, winner) > protocol.background_below, predicted, 0)
    counts = ClassCounts.of(predicted, labels, classes)
    valid = labels != VOID
    there = [(c, n) for c, n in enumerate(numbers) if n >= int(background) and (labels == n).any()]
    precision = [average_precision(maps[c][valid], labels[valid] == n) for c, n in there]
    ranks = [roc_auc(maps[c][valid], labels[valid] == n) for c, n in there]
    values = {
        "accuracy": counts.accuracy(),
        "iou": counts.iou(),
        "ap_foreground": float(np.mean(precision)) if precision else math.nan,
        "auc": float(np.nanmean(ranks)) if np.isfinite(ranks).any() else math.nan,
    }
    return Scored({"classes": counts.to_json()}, values)


def _heights(
    maps: Float[np.ndarray, "concept height width"], winner: Integer[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    """For each pixel the map of its winner, stretched to 0..1 over the picture."""
    stretched = np.stack([unit_range(torch.from_numpy(each)).numpy() for each in maps])
    return np.take_along_axis(stretched, winner[None], axis=0)[0]


def relabel_sequentially(
    winner: Integer[np.ndarray, "height width"], distractors: int, order: list[int]
) -> Integer[np.ndarray, "height width"]:
    """The official renumbering of winners to class numbers: in place, one class after another.

    Winners below `distractors` become 0; then each winner `distractors + j` becomes `order[j]`. Since it happens in
    place, a class whose number equals a later winner's is renumbered a second time: with the five distractors of VOC,
    "bus" (6) beside a second class becomes that class.
    """
    predicted = np.where(winner < distractors, 0, winner)
    for position, number in enumerate(order):
        predicted[predicted == distractors + position] = number
    return predicted
