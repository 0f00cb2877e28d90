"""How well does an enlarged map fit a photograph, when the map is right? On true masks, without any model.

.venv/bin/python benchmarks/upsampling.py --photos FOLDER   # minutes; prints a table

FOLDER holds `panoptic.json`, `panoptic/*.png` and `images/*.jpg` in COCO's own formats. The masks of a photograph are
averaged over each patch of a square grid, enlarged again, and a pixel goes to the mask with the highest score; pixels
without a mask are not compared. Mean IoU and boundary IoU (Cheng et al., CVPR 2021; at 2% of the diagonal, the frame of
the picture being no boundary) are means over the masks of a photograph, then over photographs. Masks that cover less
than a patch of the coarsest grid are left out. Intervals are bootstraps over photographs, of the difference paired.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from conceptlens.bench.metrics import bootstrap_interval
from conceptlens.ops.edges import follow_edges
from conceptlens.ops.grids import resize
from conceptlens.ops.joint_bilateral import joint_bilateral

GRIDS = (16, 64)
BOUNDARY = 0.02
Labels = Int[np.ndarray, "height width"]


def photographs(folder: Path) -> Iterator[tuple[Image.Image, Labels, int]]:
    """Pictures, the number of the mask of each pixel (-1 for none), and how many masks there are."""
    for entry in json.loads((folder / "panoptic.json").read_text())["annotations"]:
        path = folder / "panoptic" / entry["file_name"]
        stored = np.asarray(Image.open(path).convert("RGB")).astype(int) @ [1, 256, 65536]
        numbers = [n for n in np.unique(stored) if n and (stored == n).mean() >= 1 / min(GRIDS) ** 2]
        labels = np.full(stored.shape, -1)
        for place, number in enumerate(numbers):
            labels[stored == number] = place
        yield Image.open(folder / "images" / f"{path.stem}.jpg").convert("RGB"), labels, len(numbers)


def bilinear(shares: Float[Tensor, "mask rows cols"], image: Image.Image) -> Labels:
    return resize(shares, image.height, image.width).argmax(0).numpy()


def edges(shares: Float[Tensor, "mask rows cols"], image: Image.Image) -> Labels:
    best = resize(shares, image.height, image.width).topk(2, dim=0)
    return follow_edges(best.indices[0].numpy(), (best.values[0] - best.values[1]).numpy(), image)


def bilateral(shares: Float[Tensor, "mask rows cols"], image: Image.Image) -> Labels:
    return joint_bilateral(shares, image, compete=True).argmax(0).numpy()


def with_shares(shares: Float[Tensor, "mask rows cols"], image: Image.Image) -> Labels:
    return joint_bilateral(shares, image, compete=True, shares=True).argmax(0).numpy()


WAYS: dict[str, Callable[[Tensor, Image.Image], Labels]] = {
    "bilinear": bilinear,
    "edges": edges,
    "joint-bilateral": bilateral,
    "joint-bilateral, shares known": with_shares,
}


def boundary(mask: Bool[np.ndarray, "height width"], width: int) -> Bool[np.ndarray, "height width"]:
    """The pixels of a mask that are at most `width` from what is outside it."""
    return mask & (np.asarray(distance_transform_edt(mask)) <= width)


def iou(one: Bool[np.ndarray, "height width"], other: Bool[np.ndarray, "height width"]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def judged(won: Labels, labels: Labels, count: int) -> tuple[float, float]:
    """Mean IoU and mean boundary IoU over the masks."""
    width = max(1, round(BOUNDARY * math.hypot(*labels.shape)))
    pairs = [((won == n) & (labels >= 0), labels == n) for n in range(count)]
    edged = [iou(boundary(own, width), boundary(true, width)) for own, true in pairs]
    return float(np.mean([iou(*pair) for pair in pairs])), float(np.mean(edged))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    fits: dict[tuple[int, str], list[tuple[float, float]]] = {(g, way): [] for g in GRIDS for way in WAYS}
    for image, labels, count in list(photographs(args.photos))[: args.limit]:
        masks = torch.from_numpy(np.stack([labels == n for n in range(count)])).float()
        if count < 2:
            continue
        for grid in GRIDS:
            shares = torch.nn.functional.adaptive_avg_pool2d(masks, grid)
            for way, enlarged in WAYS.items():
                fits[grid, way].append(judged(enlarged(shares, image), labels, count))
    print("| grid | enlarged by | mean IoU | boundary IoU | less bilinear's |\n|---|---|---|---|---|")
    for (grid, way), figures in fits.items():
        area, edge = np.array(figures).T
        off = edge - np.array(fits[grid, "bilinear"])[:, 1]
        low, high = bootstrap_interval(off)
        change = f"{off.mean():.3f} [{low:.3f}, {high:.3f}]"
        print(f"| {grid}x{grid} | {way} | {area.mean():.3f} | {edge.mean():.3f} | {change} |")


if __name__ == "__main__":
    main()
