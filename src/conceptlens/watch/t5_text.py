"""Self-attention of a T5 text encoder, read without touching the encoder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conceptlens.values.errors import ConceptlensError, ModelError
from conceptlens.values.models import Module
from conceptlens.watch.prompt_text import at_least_float32


class T5AttentionReader:
    """Records queries, keys and relative position biases of a T5 or UMT5 encoder while its context is open.

    Attributes:
        input_ids: of the last pass.
        mask: True where a key was a real token; None when the encoder was given no mask (FLUX.1 and Stable Diffusion 3
            give none: their tokens attend to the padding).
    """

    def __init__(self, text_encoder: Module) -> None:
        self._encoder = text_encoder
        try:
            self._attentions = [block.layer[0].SelfAttention for block in text_encoder.encoder.block]
            self._biased = [a for a in self._attentions if a.has_relative_attention_bias]
        except AttributeError:
            raise ModelError(
                f"the self-attention of {type(text_encoder).__name__} cannot be read; T5 text encoders can."
            ) from None
        self._handles: list[Any] = []
        self._seen: dict[tuple[int, str], Tensor] = {}
        self.input_ids: Int[Tensor, "batch token"] | None = None
        self.mask: Bool[Tensor, "batch token"] | None = None

    def __enter__(self) -> T5AttentionReader:
        def keep_ids(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs}
            mask = given.get("attention_mask")
            self.input_ids, self.mask = given["input_ids"], None if mask is None else mask.bool()

        self._handles.append(self._encoder.register_forward_pre_hook(keep_ids, with_kwargs=True))
        for layer, attention in enumerate(self._attentions):
            for side in ("q", "k"):

                def keep(_module: object, _args: object, out: Tensor, at: tuple[int, str] = (layer, side)) -> None:
                    self._seen[at] = out.detach()

                self._handles.append(getattr(attention, side).register_forward_hook(keep))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @torch.no_grad()
    def attention(self, *, content: bool = True) -> Float[Tensor, "batch layer token token"]:
        """Bidirectional self-attention of the last pass, averaged over heads, in float32 or better; rows sum to one.

        Args:
            content: False leaves out queries and keys: what the relative position bias alone would attend to.

        Raises:
            ConceptlensError: when the encoder has not run.
        """
        if len(self._seen) < 2 * len(self._attentions):
            raise ConceptlensError("the text encoder has not run, so there is no self-attention to read.")
        return torch.stack([self._layer(number, content) for number in range(len(self._attentions))], 1)

    def _layer(self, number: int, content: bool) -> Tensor:
        attention = self._attentions[number]
        query, key = (
            at_least_float32(self._seen[number, side]).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
            for side in "qk"
        )
        # T5 has one bias for all layers, held by the first; UMT5 has one in each.
        holder = attention if attention.has_relative_attention_bias else self._biased[0]
        tokens = query.shape[-2]
        scores = at_least_float32(holder.compute_bias(tokens, tokens, device=query.device))
        # T5 does not divide by the root of the head's width.
        scores = scores + query @ key.transpose(-1, -2) if content else scores.expand(len(query), -1, -1, -1)
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask[:, None, None], float("-inf"))
        return scores.softmax(-1).mean(1)


@torch.no_grad()
def t5_text_attention(
    text_encoder: Module, input_ids: Int[Tensor, "batch token"], mask: Bool[Tensor, "batch token"] | None = None
) -> Float[Tensor, "batch token token"]:
    """Self-attention of a T5 encoder, averaged over heads and layers; rows are queries and sum to one.

    Bidirectional, with the relative position bias. Nothing is cut out: see `t5_positions` for a prompt's own tokens.
    """
    with T5AttentionReader(text_encoder) as reader:
        text_encoder(input_ids, attention_mask=mask)
    return reader.attention().mean(1)


def t5_positions(input_ids: Int[Tensor, " token"], eos_token_id: int) -> tuple[int, ...]:
    """Positions of a prompt's own tokens: before the last `</s>`, behind which there is only padding."""
    ends = (input_ids == eos_token_id).nonzero()
    return tuple(range(int(ends[-1]) if len(ends) else len(input_ids)))
