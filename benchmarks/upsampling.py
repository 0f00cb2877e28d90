"""How well does an enlarged map fit a photograph, when the map is right? On true masks, without any model.

.venv/bin/python benchmarks/upsampling.py --photos FOLDER   # minutes; prints a table

FOLDER holds `panoptic.json`, `panoptic/*.png` and `images/*.jpg` in COCO's own formats. The masks of a photograph are
averaged over each patch of a square grid, enlarged again, and compared with the true ones in two ways:

* each: every mask is where its enlarged average is above one half, and every pixel counts. Where masks compete, so does
  what none of them covers.
* competing: a pixel goes to the mask with the highest value. Pixels without a mask are not compared, masks that cover
  less than a patch of the coarsest grid are left out.

Mean IoU and boundary IoU (Cheng et al., CVPR 2021; at 2% of the diagonal, the frame of the picture being no boundary)
are means over the masks of a photograph, then over photographs. Intervals are bootstraps over photographs, of the
difference paired. `--held-out` takes every second photograph, of which none chose a constant of "known shares".
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator
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
from conceptlens.ops.known_shares import enlarge_shares

GRIDS = (16, 64)
BOUNDARY = 0.02
Labels = Int[np.ndarray, "height width"]
Shares = Float[Tensor, "mask rows cols"]
Maps = Float[Tensor, "mask height width"]


def photographs(folder: Path) -> Iterator[tuple[Image.Image, Labels]]:
    """Pictures, and the number of the mask of each pixel (-1 for none)."""
    for entry in json.loads((folder / "panoptic.json").read_text())["annotations"]:
        path = folder / "panoptic" / entry["file_name"]
        stored = np.asarray(Image.open(path).convert("RGB")).astype(int) @ [1, 256, 65536]
        numbers, labels = np.unique(stored, return_inverse=True)
        labels = labels.reshape(stored.shape) - int(0 in numbers)
        yield Image.open(folder / "images" / f"{path.stem}.jpg").convert("RGB"), labels


def bilinear(shares: Shares, image: Image.Image) -> Maps:
    return resize(shares, image.height, image.width)


def bilateral(shares: Shares, image: Image.Image) -> Maps:
    return joint_bilateral(torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True)]), image, compete=True)[:-1]


def edges(shares: Shares, image: Image.Image) -> Maps:
    """Each mask alone, as `ConceptMaps.mask` does with a threshold."""
    large = resize(shares, image.height, image.width)
    along = [follow_edges((m > 0.5).numpy().astype(int), (m - 0.5).abs().numpy(), image) for m in large]
    return torch.from_numpy(np.stack(along)).float()


def winners(maps: Maps) -> Labels:
    return maps.argmax(dim=0).numpy()


def edges_of_winners(shares: Shares, image: Image.Image) -> Labels:
    best = resize(shares, image.height, image.width).topk(2, dim=0)
    return follow_edges(best.indices[0].numpy(), (best.values[0] - best.values[1]).numpy(), image)


WAYS: dict[str, tuple[Callable[[Shares, Image.Image], Maps], Callable[[Shares, Image.Image], Labels]]] = {
    "bilinear": (bilinear, lambda shares, image: winners(bilinear(shares, image))),
    "edges": (edges, edges_of_winners),
    "joint-bilateral": (bilateral, lambda shares, image: winners(joint_bilateral(shares, image, compete=True))),
    "known shares": (enlarge_shares, lambda shares, image: winners(enlarge_shares(shares, image))),
}


def boundary(mask: Bool[np.ndarray, "height width"], width: int) -> Bool[np.ndarray, "height width"]:
    """The pixels of a mask that are at most `width` from what is outside it."""
    return mask & (np.asarray(distance_transform_edt(mask)) <= width)


def iou(one: Bool[np.ndarray, "height width"], other: Bool[np.ndarray, "height width"]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def judged(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean IoU and mean boundary IoU of pairs of an enlarged and a true mask."""
    fits = []
    for enlarged, true in pairs:
        width = max(1, round(BOUNDARY * math.hypot(*true.shape)))
        fits.append((iou(enlarged, true), iou(boundary(enlarged, width), boundary(true, width))))
    area, edge = np.mean(fits, axis=0)
    return float(area), float(edge)


def averaged(masks: Bool[np.ndarray, "mask height width"], grid: int) -> Shares:
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(masks).float(), grid)


def compared(image: Image.Image, labels: Labels, grid: int, way: str) -> tuple[float, ...]:
    """Mean IoU and boundary IoU, of each mask and of competing ones."""
    masks = np.stack([labels == n for n in range(labels.max() + 1)])
    large = masks[masks.mean(axis=(1, 2)) >= 1 / min(GRIDS) ** 2]
    maps, compete = WAYS[way]
    each = (maps(averaged(masks, grid), image) > 0.5).numpy()
    won = np.where(large.any(axis=0), compete(averaged(large, grid), image), -1)
    return (*judged(zip(each, masks, strict=True)), *judged((won == n, true) for n, true in enumerate(large)))


def line(grid: int, way: str, fits: Float[np.ndarray, "photograph 4"], less: Float[np.ndarray, "photograph 4"]) -> str:
    cells = []
    for column in (1, 3):
        off = fits[:, column] - less[:, column]
        low, high = bootstrap_interval(off)
        cells += [f"{fits[:, column - 1].mean():.3f}", f"{fits[:, column].mean():.3f}"]
        cells.append(f"{off.mean():.3f} [{low:.3f}, {high:.3f}]" if way != "bilinear" else "")
    return f"| {grid}x{grid} | {way} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--held-out", action="store_true", help="only every second photograph")
    args = parser.parse_args()
    photos = list(photographs(args.photos))
    chosen = (photos[1::2] if args.held_out else photos)[: args.limit]
    print("| grid | enlarged by | each: mean IoU | boundary IoU | less bilinear's ", end="")
    print("| competing: mean IoU | boundary IoU | less bilinear's |\n|---|---|---|---|---|---|---|---|")
    for grid in GRIDS:
        fits = {way: np.array([compared(*photo, grid, way) for photo in chosen]) for way in WAYS}
        for way, figures in fits.items():
            print(line(grid, way, figures, fits["bilinear"]), flush=True)


if __name__ == "__main__":
    main()
