"""Does the model use what its maps show? docs/faithfulness.md, its figures and its picture.

    python benchmarks/faithful.py --limit 40          # goes on where it stopped; rows in .bench/faithful
    python benchmarks/faithful.py --write             # the page's tables and picture from the rows

Pictures are judged by the detector of `training/judge.py` (train it first) and, in a second run, by presence.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import conceptlens as cl
from conceptlens.bench.faithful.cases import Case, storybook_cases
from conceptlens.bench.faithful.regions import elsewhere, inside
from conceptlens.bench.faithful.repainting import paint, repaint
from conceptlens.bench.faithful.report import table
from conceptlens.bench.faithful.runs import FaithfulSpec, Judge, judge_by_presence, run
from conceptlens.maps.pictures import contact_sheet
from conceptlens.values.words import content_words

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "faithfulness.md", ROOT / "docs" / "images" / "faithfulness.png"
METHODS = ("while-painting", "concept-attention", "cross-attention", "value-similarity", "transinterp=zoo:vit")
CALL = {"num_inference_steps": 14}


def detector() -> Judge:
    """The small detector that is trained on true scenes."""
    sys.path.insert(0, str(ROOT / "training"))
    from judge import NOUNS, RUN, as_pixels
    from judge import Judge as Detector

    model = Detector()
    model.load_state_dict(torch.load(RUN / "judge.pt"))
    model.eval()

    @torch.no_grad()
    def chances(images: Sequence[Image.Image], word: str) -> list[float]:
        logits = model(as_pixels(np.stack([np.asarray(image) for image in images])))[:, NOUNS.index(word)]
        return logits.amax(1).sigmoid().tolist()

    return Judge("detector of training/judge.py", chances)


def draw(session: cl.Session, case: Case, seed: int) -> None:
    """One case as the page shows it: painted, its map, without the word, and rows replaced in three places."""
    words = list(dict.fromkeys((case.word, *content_words(case.prompt), "sky", "grass")))
    maps = session.generate(case.prompt, words, seed=seed, **CALL)
    painting, other = (paint(session, prompt, seed, CALL) for prompt in (case.prompt, case.without))
    region = inside(maps.scores[0].numpy())
    regions = np.stack([region, elsewhere(region, np.random.default_rng(seed)), ~region])
    pictures = repaint(session, painting, other, torch.from_numpy(regions), CALL, first_step=2)
    without = f"painted from {case.without!r}" if case.without else "painted from no prompt"
    tiles = [(case.prompt, maps.image), (f"map of {case.word!r}", maps.tiles()[1][1]), (without, other.image)]
    names = ("rows inside the map replaced", "as many elsewhere", "all but the map")
    contact_sheet([*tiles, *zip(names, pictures, strict=True)], 6).save(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--judge", choices=["detector", "presence"], default="detector")
    parser.add_argument("--picture", type=int, help="draw this case and do nothing else")
    parser.add_argument("--write", action="store_true", help="write the page's tables from the rows")
    args = parser.parse_args()
    os.environ.setdefault("CONCEPTLENS_ZOO", str(ROOT / "zoo"))
    session = cl.load()
    session.pipeline.set_progress_bar_config(disable=True)
    if args.picture is not None:
        draw(session, storybook_cases(args.picture + 1)[-1], args.picture)
        return
    judge = detector() if args.judge == "detector" else judge_by_presence(session)
    spec = FaithfulSpec(storybook_cases(args.limit), METHODS, call=CALL)
    command = f"python benchmarks/faithful.py --limit {args.limit} --judge {args.judge}"
    folder = ROOT / ".bench" / "faithful" / f"{args.judge}-{args.limit}"
    found = table(*run(session, spec, judge, folder, track=lambda rows, total: map(told, rows), command=command))
    print(found.markdown())
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        begin, end = f"<!-- {args.judge}: begin -->\n", f"<!-- {args.judge}: end -->"
        head, rest = text.split(begin)
        PAGE.write_text(f"{head}{begin}{found.markdown()}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def told(row: dict) -> dict:
    print(row["id"], row.get("left_out") or row["seconds"], flush=True)
    return row


if __name__ == "__main__":
    main()
