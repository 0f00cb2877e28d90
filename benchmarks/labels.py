"""Are labels of the factory good enough to train on? Against true masks of scenes, and on paintings.

    python benchmarks/labels.py scenes                      # the embedded model
    python benchmarks/labels.py scenes --model zoo:neutral  # one that was never taught where things are
    python benchmarks/labels.py paintings                   # labels of painted prompts

`scenes` labels training scenes by their captions, trains a small segmenter on these labels alone and the same one, on
the same scenes, on true masks; both are judged on validation scenes: mean IoU over 18 concepts, with intervals by
bootstrap over scenes. `paintings` labels painted prompts, by maps of a reading and by maps made while painting; nobody
knows their true masks, so a segmenter that was trained on true masks of scenes is asked. Results go to
`benchmarks/labels.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from dense import BATCH, heads, train, vectors
from PIL import Image
from torch import Tensor

import conceptlens as cl
from conceptlens.bench.datasets.scenes import COLOURS, CONCEPTS, NOUNS, scenes
from conceptlens.bench.metrics import bootstrap_draws, bootstrap_interval, percentile_interval
from conceptlens.bench.rows import read_rows
from conceptlens.labels import Gates, LabelSpec, Running, label, read_plan
from conceptlens.labels.dataset import label_map

RESULTS = Path(__file__).parent / "labels.json"
IGNORED, VALIDATION = -100, 200
"""The number of pixels without a label, which cross entropy leaves out; unseen scenes."""
OPEN = Gates(presence=0.0, flip=0.0, doubt=0.5, smallest=0.0, largest=1.0)


class Segmenter:
    """The two-layer decoder of `benchmarks/dense.py` on features of the frozen embedded model.

    Trained on pictures and the number of each pixel's concept, `IGNORED` for none.
    """

    def __init__(self, given: Tensor, labels: np.ndarray, epochs: int) -> None:
        torch.manual_seed(0)
        self._head = heads(given.shape[1])["two-layer decoder"]
        train(self._head, given, torch.from_numpy(labels), epochs)

    @torch.no_grad()
    def __call__(self, given: Tensor) -> np.ndarray:
        return torch.cat([self._head(part).argmax(1) for part in given.split(BATCH)]).numpy()


def features(images: Sequence[np.ndarray]) -> Tensor:
    pictures = torch.from_numpy(np.stack(images)).movedim(-1, 1) / 255
    return vectors(cl.Extractor("demo", noise=0.25), pictures).clone()


def counts(guess: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections and unions, (picture, concept); pixels without a label in `guess` are left out."""
    known = guess != IGNORED
    both, either = np.zeros((2, len(truth), len(CONCEPTS)))
    for number in range(len(CONCEPTS)):
        ours, theirs = (guess == number) & known, (truth == number) & known
        both[:, number] = (ours & theirs).sum((1, 2))
        either[:, number] = (ours | theirs).sum((1, 2))
    return both, either


def mean_iou(guess: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Mean over concepts of intersections over unions, each summed over pictures."""
    both, either = counts(guess, truth)

    def figure(chosen: np.ndarray) -> float:
        summed = both[chosen].sum(0), either[chosen].sum(0)
        return float(np.mean(summed[0][summed[1] > 0] / summed[1][summed[1] > 0]))

    draws = np.array([figure(chosen) for chosen in bootstrap_draws(len(truth))])
    low, high = percentile_interval(draws)
    whole = figure(np.arange(len(truth)))
    return {"mean IoU": round(whole, 4), "interval95": [round(low, 4), round(high, 4)]}


def drawn(split: Literal["train", "validation"], count: int) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Pictures, the concept of each pixel as its number in `CONCEPTS`, and captions."""
    known = list(scenes(split, count))
    labels = [np.array([CONCEPTS.index(name) for name in scene.concepts])[scene.labels] for scene in known]
    return [scene.image for scene in known], np.stack(labels), [scene.caption for scene in known]


def write_folder(folder: Path, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> None:
    folder.mkdir()
    for number, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")
        (folder / f"{number:05d}.txt").write_text(caption)


def labelled(folder: Path, out: Path, spec: LabelSpec) -> tuple[np.ndarray, dict[str, Any]]:
    """Label maps of a folder, `IGNORED` for pixels without a label and for whole pictures that were rejected."""
    plan = read_plan(None, folder, out, spec)
    summary = label(plan, out, Running(batch=8))
    maps = []
    for row in sorted(read_rows(out)[1], key=lambda row: row["id"]):
        maps.append(np.full((64, 64), IGNORED))
        if row["kept"]:
            maps[-1] = numbered(row)
    told = {"pictures kept": summary.kept, "words": summary.words, "labels": summary.labels}
    return np.stack(maps), told | {"words rejected by": summary.reasons}


def numbered(row: dict[str, Any]) -> np.ndarray:
    """The labels of a row by their numbers in `CONCEPTS`; `IGNORED` for the background and for none."""
    names = [each["word"] for each in row["annotations"]]
    places = [CONCEPTS.index(name) if name in CONCEPTS else IGNORED for name in names]
    return np.array([IGNORED, *places, IGNORED])[label_map(row, names)]


def of_scenes(spec: LabelSpec, count: int, epochs: int, work: Path) -> dict[str, Any]:
    images, truth, captions = drawn("train", count)
    unseen, unseen_truth, _ = drawn("validation", VALIDATION)
    given, judged = features(images), features(unseen)
    write_folder(work / "scenes", images, captions)
    results: dict[str, Any] = {"training scenes": count, "unseen scenes": VALIDATION, "epochs": epochs}
    for name, gates in (("gated", Gates()), ("ungated", OPEN)):
        labels, told = labelled(work / "scenes", work / name, replace(spec, gates=gates))
        covered = round(float((labels != IGNORED).mean()), 4)
        results[f"{name} labels"] = told | {"share of pixels": covered} | mean_iou(labels, truth)
        segmenter = Segmenter(given, labels, epochs)
        results[f"segmenter trained on {name} labels"] = mean_iou(segmenter(judged), unseen_truth)
        print(json.dumps(results, indent=1), flush=True)
    results["segmenter trained on true masks"] = mean_iou(Segmenter(given, truth, epochs)(judged), unseen_truth)
    return results


def prompts(count: int, draw: int = 2026) -> list[str]:
    """One and two coloured things in turn."""
    rng = np.random.default_rng(draw)
    texts = []
    for number in range(count):
        nouns = rng.choice(NOUNS, 1 + number % 2, replace=False)
        pairs = [(str(rng.choice(list(COLOURS))), str(noun)) for noun in nouns]
        texts.append(" and ".join(f"{'an' if colour[0] == 'o' else 'a'} {colour} {noun}" for colour, noun in pairs))
    return texts


def of_paintings(spec: LabelSpec, count: int, epochs: int, work: Path) -> dict[str, Any]:
    """How labels of paintings overlap with the masks of a segmenter that was trained on true ones."""
    images, truth, _ = drawn("train", 384)
    judge = Segmenter(features(images), truth, epochs)
    unseen, unseen_truth, _ = drawn("validation", VALIDATION)
    results: dict[str, Any] = {"paintings": count}
    results["judge on unseen scenes"] = mean_iou(judge(features(unseen)), unseen_truth)
    file = work / "prompts.txt"
    file.write_text("\n".join(prompts(count)) + "\n")
    for painted in (False, True):
        for name, gates in (("gated", Gates()), ("ungated", OPEN)):
            out = work / f"{name} {painted}"
            summary = label(read_plan(file, None, out, replace(spec, gates=gates, while_painting=painted)), out)
            about = f"{name} labels by maps " + ("while painting" if painted else "of a reading")
            told = {"pictures kept": summary.kept, "words": summary.words, "labels": summary.labels}
            results[about] = told | {"words rejected by": summary.reasons} | agreement(judge, out)
            print(json.dumps(results, indent=1), flush=True)
    return results


def agreement(judge: Segmenter, folder: Path) -> dict[str, Any]:
    """Intersection over union of each label with the judge's mask of its word."""
    rows = [row for row in read_rows(folder)[1] if row["kept"]]
    files = [folder / "images" / f"{row['id']}.png" for row in rows]
    masks = judge(features([np.asarray(Image.open(file).convert("RGB")) for file in files]))
    overlaps = []
    for row, seen in zip(rows, masks, strict=True):
        labels = numbered(row)
        for number in sorted(set(labels[labels != IGNORED].tolist())):
            ours, theirs = labels == number, seen == number
            overlaps.append((ours & theirs).sum() / (ours | theirs).sum())
    values = np.array(overlaps, float)
    low, high = bootstrap_interval(values)
    good = round(float((values > 0.5).mean()), 4)
    return {
        "mean IoU with the judge": round(float(values.mean()), 4),
        "interval95": [round(low, 4), round(high, 4)],
    } | {"labels above 0.5": good}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scenes", "paintings"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--no-background", action="store_true", help="captions name all there is")
    parser.add_argument("--count", type=int, help="scenes (256) or paintings (60)")
    parser.add_argument("--epochs", type=int, default=15, help="of training")
    args = parser.parse_args()
    model = None if args.model == "demo" else args.model
    if model is not None and model.startswith("zoo:"):
        model = str(Path(__file__).parents[1] / "zoo" / model.removeprefix("zoo:"))
    measure, count = (of_scenes, 256) if args.what == "scenes" else (of_paintings, 60)
    with tempfile.TemporaryDirectory() as work:
        spec = LabelSpec(model=model, background=not args.no_background)
        results = measure(spec, args.count or count, args.epochs, Path(work))
    whole = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    whole[f"{args.what} {args.model}{' without background words' * args.no_background}"] = results
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
