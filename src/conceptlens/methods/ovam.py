"""OVAM (Marcos-Manchon et al., CVPR 2024, arXiv 2403.14291): stored U-Net queries, scored with any attribution prompt.

Per cross-attention layer and head, softmax over the attribution prompt's tokens of q k' / sqrt(d), where k' comes from
its unpadded embedding; sum over calls and heads, enlarged (bilinear) to the largest layer's grid, sum over layers.
Zero-shot: no token is optimised. It is what a session on a U-Net reads and probes (`readers/unets.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from PIL import Image

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.methods import register
from conceptlens.methods._options import maps_of
from conceptlens.methods._unet import UnetMethod
from conceptlens.readers.prompt_places import joined_prompt
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import check_concepts


@register
class Ovam(UnetMethod):
    """Cross-attention of words that need not be in the prompt. Scores are sums of probabilities, 0 and above."""

    name = "ovam"
    summary = "cross-attention of a U-Net with words outside the prompt (Stable Diffusion XL or 2)"

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """Maps of concepts, each a part of the attribution prompt "a first, a second, ..."; see `attribute`."""
        started = time.perf_counter()
        names = check_concepts(concepts)
        self._reader.places(joined_prompt("", names), names)  # before the image, which takes longer
        return self.attribute(self.store(image, prompt=prompt, seed=seed), names, started=started)

    def attribute(
        self,
        stored: ImageRecord,
        concepts: Sequence[str],
        *,
        attribution: str | None = None,
        started: float | None = None,
    ) -> ConceptMaps:
        """Maps of words of an attribution prompt, without running the U-Net again.

        Args:
            stored: from `store`, or a session's `read`.
            concepts: words of the attribution prompt.
            attribution: any text; "a first, a second, ..." of the concepts when None.
            started: `time.perf_counter()` at the beginning of the work; now when None.

        Raises:
            ConceptError: for a word that the attribution prompt lacks, or a prompt that is too long.
        """
        started = time.perf_counter() if started is None else started
        names = check_concepts(concepts)
        answer = self._reader.probe(stored, names, stored.recipe, {"attribution": attribution})
        where = {"image": stored.image, "prompt": stored.prompt, "seed": stored.seed, "started": started}
        info = answer.info
        return maps_of(self, names, answer.scores, attribution=info.attribution, timestep=info.timestep, **where)
