"""Finding 1: cross-attention maps are as alike as the embeddings of their words, not as the words belong together.

For every two words of a prompt: the cosine similarity of their text embeddings (as the U-Net gets them), what the later
one pays to the earlier in the text encoder's self-attention, and the cosine similarity C of their cross-attention maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from conceptlens.bench.findings.finding import Finding, estimate
from conceptlens.bench.findings.painting import Painting, paint, word_similarity
from conceptlens.bench.findings.pairs import with_interval, word_attention, word_cosines, word_pairs
from conceptlens.bench.findings.reading import read_prompt_with
from conceptlens.bench.tables import Table
from conceptlens.values.models import Pipeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH = 4


def measure(painting: Painting, prompts: Sequence[str], *, seed: int = 0) -> Finding:
    """Correlations over pairs of words, with intervals over prompts; picture n has the seed `seed + n`."""
    loaded = painting.open()
    tables: list[dict[str, np.ndarray]] = []
    for first in range(0, len(prompts), BATCH):
        part = prompts[first : first + BATCH]
        maps, _ = paint(loaded.pipeline, painting, part, range(seed + first, seed + first + len(part)), whole=False)
        tables += [_columns(loaded.pipeline, prompt, of_picture) for prompt, of_picture in zip(part, maps, strict=True)]
    body, numbers = [], {}
    for kind in ("all words", "words of the objects"):
        chosen = [t if kind == "all words" else {n: v[t["content"]] for n, v in t.items()} for t in tables]
        correlations = {name: _correlation(chosen, name) for name in ("embedding", "attention")}
        pairs = sum(len(t["map"]) for t in chosen)
        body.append((kind, str(pairs), *(estimate(value) for value in correlations.values())))
        numbers[kind] = {"pairs": pairs, **correlations}
    table = Table(
        "Correlation of map similarity with ...",
        ("pairs of", "pairs", "embedding similarity", "text self-attention"),
        tuple(body),
    )
    together = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}

    def draw(axes: list[Axes]) -> None:
        for one, name, label in zip(axes, ("embedding", "attention"), ("embeddings", "self-attention"), strict=True):
            for content, colour in ((False, "0.7"), (True, "tab:purple")):
                shown = together["content"] == content
                words = "words of the objects" if content else "with other words"
                one.scatter(together[name][shown], together["map"][shown], s=5, c=colour, label=words)
            one.set_xlabel(f"text {label}", fontsize=8)
            one.set_ylabel("similarity of maps, C", fontsize=8)
            one.legend(fontsize=7, frameon=False)

    settings = {**painting.settings(), "prompts": list(prompts), "seed": seed}
    numbers["points"] = {name: v if v.dtype == bool else v.round(5) for name, v in together.items()}
    return Finding("maps", table, settings, numbers, draw, ("maps against embeddings", "maps against self-attention"))


def _columns(pipeline: Pipeline, prompt: str, maps: Tensor) -> dict[str, np.ndarray]:
    """For every two words of a prompt, the earlier one second."""
    reading = read_prompt_with(pipeline, prompt)
    encoder = reading.encoders[0]
    places = [places for _, places in encoder.text.words]
    attention = word_attention(encoder, encoder.text.attention[0].mean(0))
    rows, cols = np.tril_indices(len(places), -1)
    nouns = word_pairs(encoder.text, causal=False)
    content = {n for kind in ("bound", "objects") for pair in nouns[kind] for n in pair}
    return {
        "embedding": word_cosines(reading.embeds, places).numpy()[rows, cols],
        "attention": attention.numpy()[rows, cols],
        "map": word_similarity(encoder, maps).numpy()[rows, cols],
        "content": np.array([r in content and c in content for r, c in zip(rows, cols, strict=True)]),
    }


def _correlation(tables: Sequence[dict[str, np.ndarray]], name: str) -> tuple[float, float, float]:
    def of(chosen: Sequence[int]) -> float:
        one, other = (np.concatenate([tables[n][key] for n in chosen]) for key in (name, "map"))
        return float(np.corrcoef(one, other)[0, 1]) if len(one) > 1 else float("nan")

    return with_interval(of, len(tables))
