"""CLIP as RNN (Sun et al., CVPR 2024, arXiv 2312.07661): masks proposed and filtered by CLIP, until none is dropped.

Proposal: Grad-CAM of each query against the others and a list of backgrounds, spread along the affinity of the patches.
Filter: the image is marked with each mask (blur outside, red ellipse) and scored against all queries by a second CLIP;
a query stays when its own picture names it. The maps are each query's last proposal, before any CRF.
`protocol="paper"` repeats the official code: bare words in the first round, the ellipse drawn over the mask, and a
scorer that leaves out its last layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.picture_files import open_image
from conceptlens.methods import register
from conceptlens.methods._clip_as_rnn_masks import affinity, check_crf, dense_crf, refine, visual_prompt
from conceptlens.methods._clip_as_rnn_words import BACKGROUNDS, SCORING_TEMPLATES, TEMPLATE
from conceptlens.methods._options import maps_of, plain
from conceptlens.methods.base import MethodInfo, SaliencyMethod
from conceptlens.methods.clip_models import Clip, load_clip, look
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from conceptlens.values.options import check_range, options_of
from conceptlens.values.words import check_concepts

SCORER = "openai/clip-vit-large-patch14"

Proposer = Callable[[tuple[str, ...], int], Tensor]
Scorer = Callable[[tuple[str, ...], Tensor], Tensor]


@dataclass(frozen=True)
class ClipAsRnnOptions:
    """How masks are proposed and kept.

    Attributes:
        size: side in pixels of the square in which masks are proposed; a multiple of the patch size.
        threshold: fraction of a map's range above which its mask and its boxes lie.
        keep_above: the score above which a query stays, in 0..1.
        background: background words compete with the queries in the proposal. Needed for a single concept; without
            them a last query competes with those that were dropped.
        crf: refine the maps with a dense CRF at `size`; needs the package pydensecrf.
        protocol: "fixed", or "paper" for the quirks of the official code.
    """

    size: int = 512
    threshold: float = 0.4
    keep_above: float = 0.6
    background: bool = True
    crf: bool = False
    protocol: Literal["fixed", "paper"] = "fixed"

    def __post_init__(self) -> None:
        check_range("size", self.size, 8, 4096)
        check_range("threshold", self.threshold, 0, 1)
        check_range("keep_above", self.keep_above, 0, 1)
        if self.crf:
            check_crf()


@register
class ClipAsRnn(SaliencyMethod):
    """Grad-CAM proposals of CLIP that CLIP itself confirms. Scores are in 0..1, on the proposer's patch grid."""

    name = "clip-as-rnn"
    summary = "masks that CLIP proposes, and keeps while it recognises them (two CLIP models)"
    info = MethodInfo(text_conditioned=True, needs_grad=True, backbone="openai/clip-vit-base-patch16")

    def __init__(self, proposer: object, scorer: object = None, **options: Any) -> None:
        """On two open CLIP models, each a `Clip`; `options` are the fields of `ClipAsRnnOptions`."""
        if not isinstance(proposer, Clip) or not isinstance(scorer, Clip):
            kind = type(scorer if isinstance(proposer, Clip) else proposer).__name__
            raise ModelError(f"{self.name} runs on two CLIP models; got a {kind}. Open it with load.")
        self._proposer, self._scorer, self._options = proposer, scorer, options_of(ClipAsRnnOptions, options)
        patch = proposer.model.config.vision_config.patch_size
        if self._options.size % patch:
            raise RecipeError(f"size must be a multiple of the patch size {patch}; got {self._options.size}.")

    @classmethod
    def load(
        cls, model: str | Path | None = None, *, device: str | None = None, scorer: str = SCORER, **options: Any
    ) -> ClipAsRnn:
        """Opens `model` for the proposals and `scorer`, another hub id or folder of a CLIP model, for the filter."""
        options_of(ClipAsRnnOptions, options)
        return cls(load_clip(model or cls.info.backbone, device), load_clip(scorer, device), **options)

    @property
    def model_id(self) -> str:
        return self._proposer.model_id

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**plain(self._options), "scorer": self._scorer.model_id}

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of concepts; `prompt` and `seed` play no part. A dropped concept has the map of its last round.

        Raises:
            ConceptError: for an unusable list of concepts, or a single one without background words.
        """
        started, options = time.perf_counter(), self._options
        names, picture = check_concepts(concepts), open_image(image)
        if len(names) == 1 and not options.background:
            raise ConceptError(
                f"the one concept {names[0]!r} has nothing to compete with, so its map would be empty. Name another "
                "concept or leave background=True."
            )
        square = torch.from_numpy(np.array(picture.resize((options.size, options.size), Image.Resampling.BICUBIC)))
        seen = look(self._proposer, square, options.size)
        matrix = affinity(seen.attention)
        quirks = options.protocol == "paper"
        behind = self._proposer.text([TEMPLATE.format(word) for word in BACKGROUNDS])
        behind = behind[: len(behind) * options.background]

        def propose(queries: tuple[str, ...], round_: int) -> Tensor:
            bare = quirks and round_ == 0
            texts = self._proposer.text(queries if bare else [TEMPLATE.format(query) for query in queries])
            dropped = [TEMPLATE.format(name) for name in names if name not in queries]
            rivals = self._proposer.text(dropped) if len(queries) == 1 and not options.background else behind
            cams = seen.activation_maps(texts, rivals)
            empty = ~cams.flatten(1).any(dim=1)
            if len(queries) > 1 and empty.any():
                cams[empty] = seen.activation_maps(texts, rivals[:0])[empty]
            return refine(cams, matrix, options.threshold)

        def score(queries: tuple[str, ...], cams: Tensor) -> Tensor:
            masks = F.interpolate(cams[None].cpu(), square.shape[:2], mode="bilinear")[0] > options.threshold
            marked = torch.stack([visual_prompt(square, mask, over=quirks) for mask in masks])
            pictures, total = self._scorer.image(marked, skip_last=quirks), torch.zeros(())
            for template in SCORING_TEMPLATES:
                texts = self._scorer.text([template.format(query) for query in queries])
                total = total + self._scorer.logits(pictures, texts).softmax(dim=-1).cpu()
            return total.softmax(dim=-1).diagonal()

        maps, rounds = recur(names, propose, score, options.keep_above)
        scores = torch.stack([maps[name] for name in names]).cpu()
        if options.crf:
            scores = dense_crf(F.interpolate(scores[None], square.shape[:2], mode="bilinear")[0], square)
        details = {"kept": [list(kept) for kept in rounds]}
        return maps_of(self, names, scores, image=picture, prompt=prompt, seed=seed, started=started, **details)


def recur(
    queries: tuple[str, ...], propose: Proposer, score: Scorer, keep_above: float
) -> tuple[dict[str, Float[Tensor, "rows cols"]], list[tuple[str, ...]]]:
    """Proposes and filters until a round drops no query; the best one always stays.

    Args:
        queries: what to look for.
        propose: (queries, number of the round) to one map per query.
        score: (queries, their maps) to one score per query.
        keep_above: the score above which a query stays.

    Returns:
        Each query's last map, and what each round kept.
    """
    maps: dict[str, Tensor] = {}
    rounds: list[tuple[str, ...]] = []
    while True:
        proposed = propose(queries, len(rounds))
        maps.update(zip(queries, proposed, strict=True))
        scores = score(queries, proposed)
        kept = tuple(query for query, value in zip(queries, scores.tolist(), strict=True) if value > keep_above)
        rounds.append(kept or (queries[int(scores.argmax())],))
        if len(rounds[-1]) == len(queries):
            return maps, rounds
        queries = rounds[-1]
