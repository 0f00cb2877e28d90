"""What the text encoder makes of a prompt: tokens, words, and self-attention, read without touching the encoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conceptlens.errors import ConceptlensError, ModelError, RecipeError, shown

_FUNCTION_WORDS = """
a an the this that these those some any each every and or but of on in at to from by with without under over above below
beneath behind beside between near next into onto off up down left right front is are was were be being has have its his
her their it as for
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class PromptText:
    """One prompt as the pipeline's text encoders read it.

    Attributes:
        prompt: the text.
        tokens: its pieces, without begin, end and padding.
        positions: their positions in the encoder's sequence.
        words: whole words with the positions of their pieces.
        attention: for each text encoder, self-attention of all pieces averaged over heads, by layer; rows are queries.
            Begin and end are cut out, and rows not renormalised.
        unused_layers: how many of each encoder's last layers never reach the image model.
        causal: whether a token attends only to those before it (CLIP), or to all (T5).
    """

    prompt: str
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    words: tuple[tuple[str, tuple[int, ...]], ...]
    attention: tuple[Float[Tensor, "_layer token token"], ...]
    unused_layers: int = 0
    causal: bool = True

    def find(self, wanted: Sequence[str | int]) -> tuple[tuple[int, ...], ...]:
        """Encoder positions of words, in reading order where a word stands several times; numbers are positions.

        Raises:
            RecipeError: for a word or position that the prompt does not have, or no list.
        """
        if isinstance(wanted, str) or not isinstance(wanted, Sequence):
            raise RecipeError(f"words must be a list of words of the prompt; got {shown(wanted)}.")
        found: list[tuple[int, ...]] = []
        for word in wanted:
            if isinstance(word, int):
                places = [(word,)] if word in self.positions else []
            else:
                places = self._places(str(word).lower())
            free = [p for p in places if p not in found] or places
            if not free:
                have = ", ".join(text for text, _ in self.words)
                raise RecipeError(f"{word!r} is not in the prompt {self.prompt!r}. Its words: {have}.")
            found.append(free[0])
        return tuple(found)

    def _places(self, wanted: str) -> list[tuple[int, ...]]:
        """Where a word stands; one that the encoder cuts at marks and digits ("ship's", "3D") is a run of its words."""
        exact = [places for word, places in self.words if word.lower() == wanted]
        if exact or wanted not in self.prompt.lower():
            return exact
        found: list[tuple[int, ...]] = []
        for first in range(len(self.words)):
            read, run = "", ()
            for word, places in self.words[first:]:
                read, run = read + word.lower(), run + places
                if read == wanted:
                    found.append(run)
                if not wanted.startswith(read):
                    break
        return found

    def groups(self, given: Sequence[Sequence[str | int]] | None) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Words that belong together, the noun last: those given, or runs of words between function words.

        Adjacency is no parser: "a red house and a blue boat" gives (red, house) and (blue, boat), but "a house that is
        red" gives (house) and (red). Give the groups for such prompts.

        Raises:
            RecipeError: for an empty group or a word that the prompt does not have.
        """
        if given is not None:
            lists = [given, *given] if isinstance(given, Sequence) else [given]
            if not all(isinstance(one, Sequence) and not isinstance(one, str) and one for one in lists):
                raise RecipeError(f"groups must be lists of words, the noun last in each; got {shown(given)}.")
            flat = iter(self.find([word for group in given for word in group]))
            return tuple(tuple(next(flat) for _ in group) for group in given)
        runs: list[list[tuple[int, ...]]] = [[]]
        for word, places in self.words:
            if word.lower() in FUNCTION_WORDS or not any(c.isalnum() for c in word):
                runs.append([])
            else:
                runs[-1].append(places)
        return tuple(tuple(run) for run in runs if run)


class TextAttentionReader:
    """Records queries and keys of a CLIP text encoder while its context is open; the encoder computes as ever.

    Independent of the attention kernel, and right with LoRA, since the projections' own outputs are read.
    """

    def __init__(self, text_encoder: Any) -> None:
        root = getattr(text_encoder, "text_model", text_encoder)
        self._encoder = text_encoder
        try:
            self._attentions = [layer.self_attn for layer in root.encoder.layers]
            self._projections = [(a.q_proj, a.k_proj) for a in self._attentions]
        except AttributeError:
            raise ModelError(
                f"the self-attention of {type(text_encoder).__name__} cannot be read; CLIP text encoders can."
            ) from None
        self._handles: list[Any] = []
        self._seen: dict[tuple[int, int], Tensor] = {}
        self.input_ids: Int[Tensor, "batch token"] | None = None

    def __enter__(self) -> TextAttentionReader:
        def keep_ids(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.input_ids = args[0] if args else kwargs["input_ids"]

        self._handles.append(self._encoder.register_forward_pre_hook(keep_ids, with_kwargs=True))
        for layer, pair in enumerate(self._projections):
            for side, projection in enumerate(pair):

                def keep(_module: Any, _args: Any, out: Tensor, at: tuple[int, int] = (layer, side)) -> None:
                    self._seen[at] = out.detach()

                self._handles.append(projection.register_forward_hook(keep))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def attention(self) -> Float[Tensor, "batch layer token token"]:
        """Causal self-attention of the last pass, averaged over heads, in float32 or better.

        Raises:
            ConceptlensError: when the encoder has not run.
        """
        if len(self._seen) < 2 * len(self._attentions):
            raise ConceptlensError("the text encoder has not run, so there is no self-attention to read.")
        return torch.stack([self._layer(n, attn) for n, attn in enumerate(self._attentions)], 1)

    def _layer(self, number: int, attn: Any) -> Tensor:
        query, key = (
            at_least_float32(self._seen[number, side]).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
            for side in (0, 1)
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, float("-inf")).softmax(-1).mean(1)


@torch.no_grad()
def clip_text_attention(
    text_encoder: Any, input_ids: Int[Tensor, "batch token"]
) -> Float[Tensor, "batch layer token token"]:
    """Self-attention of a CLIP text encoder, averaged over heads: lower-triangular, rows sum to one."""
    with TextAttentionReader(text_encoder) as reader:
        text_encoder(input_ids)
    return reader.attention()


def prompt_positions(input_ids: Int[Tensor, " token"], eos_token_id: int) -> tuple[int, ...]:
    """Positions of a prompt's own tokens: after begin, before the first end (padding may be made of ends, too)."""
    ends = (input_ids[1:] == eos_token_id).nonzero()
    return tuple(range(1, 1 + int(ends[0]) if len(ends) else len(input_ids)))


def split_words(tokenizer: Any, ids: Sequence[int], positions: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
    """Whole words with the positions of their pieces; CLIP marks a word's last piece with `</w>`.

    Added tokens (textual inversion) bear no mark and are words by themselves; the several vectors of one concept, named
    "<toy>", "<toy>_1", ..., are one word.
    """
    added = tokenizer.added_tokens_decoder
    words: list[tuple[str, tuple[int, ...]]] = []
    held: list[int] = []
    for position in positions:
        piece = str(tokenizer.convert_ids_to_tokens(ids[position]))
        alone = ids[position] in added
        if alone and words and piece.rpartition("_")[0] == words[-1][0]:
            words[-1] = (words[-1][0], (*words[-1][1], position))
            continue
        held.append(position)
        if alone or piece.endswith("</w>") or position == positions[-1]:
            words.append((tokenizer.decode([ids[p] for p in held]).strip(), tuple(held)))
            held = []
    return words


def read_prompt(
    prompt: str, tokenizer: Any, input_ids: Tensor, attention: Sequence[Tensor], unused_layers: int
) -> PromptText:
    """One row of a batch; `attention` holds (layer, token, token) of each encoder."""
    ids = input_ids.tolist()
    positions = prompt_positions(input_ids, tokenizer.eos_token_id)
    span = slice(1, 1 + len(positions))
    return PromptText(
        prompt=prompt,
        tokens=tuple(str(tokenizer.convert_ids_to_tokens(ids[p])).removesuffix("</w>") for p in positions),
        positions=positions,
        words=tuple(split_words(tokenizer, ids, positions)),
        attention=tuple(a[:, span, span].cpu() for a in attention),
        unused_layers=unused_layers,
    )


def merged(
    attention: Float[Tensor, "*layer token token"], words: Sequence[Sequence[int]]
) -> Float[Tensor, "*layer word word"]:
    """From pieces to words: what a word's pieces pay on average, and get in sum."""
    member = attention.new_zeros(len(words), attention.shape[-1])
    for row, pieces in enumerate(words):
        member[row, list(pieces)] = 1
    return (member / member.sum(1, keepdim=True)) @ attention @ member.T


def warn_of_lost_words(tokenizer: Any, prompt: str, longest: int) -> None:
    """Warns when a text encoder that reads `longest` tokens does not read the whole prompt; it is cut, as ever."""
    ids = tokenizer(prompt, verbose=False).input_ids
    if len(ids) > longest:
        warnings.warn(
            f"the prompt has {len(ids)} tokens and a text encoder reads {longest}; lost to it, as in the plain "
            f"pipeline: {tokenizer.decode(ids[longest - 1 : -1]).strip()!r}",
            stacklevel=2,
        )


def at_least_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
