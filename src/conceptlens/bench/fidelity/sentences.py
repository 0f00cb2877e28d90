"""Which of some sentences means most nearly the same: what TIFA does with an answer that is none of the choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from conceptlens.bench.fidelity._loading import load, load_processor

DEFAULT_SENTENCES = "sentence-transformers/all-mpnet-base-v2"


class SentenceModel:
    """Sentence-BERT (arXiv 1908.10084) by plain transformers: the mean over a sentence's tokens, as a unit vector."""

    def __init__(self, source: str = DEFAULT_SENTENCES, device: str | torch.device | None = None) -> None:
        self._model = load(source, AutoModel, device)
        self._tokenizer = load_processor(source, AutoTokenizer)

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Float[Tensor, "sentence dim"]:
        """Unit vectors."""
        given = self._tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        given = given.to(self._model.device)
        states = self._model(**given).last_hidden_state.float()
        real = given.attention_mask[..., None].float()
        return F.normalize((states * real).sum(1) / real.sum(1).clamp_min(1e-9), dim=1)

    def __call__(self, sentence: str, choices: Sequence[str]) -> str:
        """The choice with the highest cosine similarity to `sentence`; the first of equal ones."""
        vectors = self.embed([sentence, *choices])
        return choices[int((vectors[1:] @ vectors[0]).argmax())]
