"""What the text encoder makes of a prompt: tokens, words, and self-attention, read without touching the encoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conceptlens.families.kinds.tokens import lost_letters, text_tokens
from conceptlens.values.errors import ConceptlensError, ModelError, RecipeError, shown
from conceptlens.values.models import Module, Tokenizer
from conceptlens.values.words import mentions
from conceptlens.watch.word_places import assigned, read_words

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
        words: whole words with the positions of their pieces, as the tokenizer parts them ("ship", "'s").
        attention: for each text encoder, self-attention of all pieces averaged over heads, by layer; rows are queries.
            Begin and end are cut out, and rows not renormalised.
        unused_layers: how many of each encoder's last layers never reach the image model.
        causal: whether a token attends only to those before it (CLIP), or to all (T5).
        encoded: the text that was given to the tokenizer: the prompt with its textual inversions spelt out.
        spans: for each word its (start, end) characters in `encoded`.
    """

    prompt: str
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    words: tuple[tuple[str, tuple[int, ...]], ...]
    attention: tuple[Float[Tensor, "_layer token token"], ...]
    unused_layers: int = 0
    causal: bool = True
    encoded: str = ""
    spans: tuple[tuple[int, int], ...] = ()

    def find(self, wanted: Sequence[str | int]) -> tuple[tuple[int, ...], ...]:
        """Encoder positions of words, or of words that stand side by side ("red house"); numbers are positions.

        What is wanted several times is found several times, in reading order.

        Raises:
            RecipeError: for a word or position that the prompt does not have, or no list.
        """
        if isinstance(wanted, str) or not isinstance(wanted, Sequence):
            raise RecipeError(f"words must be a list of words of the prompt; got {shown(wanted)}.")
        return tuple(places for (places,) in self._assigned([[word] for word in wanted]))

    def _assigned(self, groups: Sequence[Sequence[str | int]]) -> tuple[tuple[tuple[int, ...], ...], ...]:
        numbers = {place: number for number, (_, places) in enumerate(self.words) for place in places}
        return assigned([[self._places(word) for word in group] for group in groups], numbers)

    def _places(self, wanted: str | int) -> list[tuple[int, ...]]:
        """Where a word, a run of words, or a position stands; in reading order."""
        if isinstance(wanted, int):
            found = [(wanted,)] if wanted in self.positions else []
        else:
            met = mentions(self.encoded, str(wanted))
            found = [places for start, end in met if (places := self._between(start, end))]
        if not found:
            have = ", ".join(text for text, _ in self.words)
            raise RecipeError(f"{wanted!r} is not in the prompt {self.prompt!r}. Its words: {have}.")
        return found

    def _between(self, start: int, end: int) -> tuple[int, ...]:
        """Positions of the words between two characters; none where the encoder did not read up to the last."""
        if not self.spans or end > self.spans[-1][1]:
            return ()
        rows = zip(self.words, self.spans, strict=True)
        return tuple(place for (_, places), span in rows if span[0] < end and start < span[1] for place in places)

    def groups(self, given: Sequence[Sequence[str | int]] | None) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Words that belong together, the noun last: those given, or runs of words between function words.

        Of a word that stands several times, a group gets the one that is next to its other words, whatever the order of
        the groups: "red" and "house" are the second house of "a blue house and a red house".

        Adjacency is no parser: "a red house and a blue boat" gives (red, house) and (blue, boat), but "a house that is
        red" gives (house) and (red). Give the groups for such prompts.

        Raises:
            RecipeError: for an empty group or a word that the prompt does not have.
        """
        if given is not None:
            lists = [given, *given] if isinstance(given, Sequence) else [given]
            if not all(isinstance(one, Sequence) and not isinstance(one, str) and one for one in lists):
                raise RecipeError(f"groups must be lists of words, the noun last in each; got {shown(given)}.")
            return self._assigned(given)
        runs: list[list[tuple[int, ...]]] = [[]]
        for word, places in self.words:
            if word.lower() in FUNCTION_WORDS or not any(c.isalnum() for c in word):
                runs.append([])
            else:
                runs[-1].append(places)
        return tuple(tuple(run) for run in runs if run)


class TextAttentionReader:
    """Records queries and keys of a CLIP text encoder while its context is open; its results stay the same.

    Independent of the attention kernel, and right with LoRA, since the projections' own outputs are read.
    """

    def __init__(self, text_encoder: Module) -> None:
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
        def keep_ids(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.input_ids = args[0] if args else kwargs["input_ids"]

        self._handles.append(self._encoder.register_forward_pre_hook(keep_ids, with_kwargs=True))
        for layer, pair in enumerate(self._projections):
            for side, projection in enumerate(pair):

                def keep(_module: object, _args: object, out: Tensor, at: tuple[int, int] = (layer, side)) -> None:
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

    def _layer(self, number: int, attn: Module) -> Tensor:
        query, key = (
            at_least_float32(self._seen[number, side]).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
            for side in (0, 1)
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, float("-inf")).softmax(-1).mean(1)


@torch.no_grad()
def clip_text_attention(
    text_encoder: Module, input_ids: Int[Tensor, "batch token"]
) -> Float[Tensor, "batch layer token token"]:
    """Self-attention of a CLIP text encoder, averaged over heads: lower-triangular, rows sum to one."""
    with TextAttentionReader(text_encoder) as reader:
        text_encoder(input_ids)
    return reader.attention()


def prompt_positions(
    input_ids: Int[Tensor, " token"], eos_token_id: int, pad_token_id: int | None = None
) -> tuple[int, ...]:
    """Positions of a prompt's own tokens: after begin, before the end and the padding, which may be made of ends, too.

    An end among them is no end: CLIP's unknown mark is the same token.
    """
    ids = input_ids.tolist()
    last = len(ids)
    if eos_token_id in ids:
        while ids[last - 1] == pad_token_id != eos_token_id:
            last -= 1
    while last > 1 and ids[last - 1] == eos_token_id:
        last -= 1
    return tuple(range(1, last))


def read_prompt(
    prompt: str,
    tokenizer: Tokenizer,
    input_ids: Tensor,
    attention: Sequence[Tensor],
    unused_layers: int,
    encoded: str | None = None,
) -> PromptText:
    """One row of a batch; `attention` holds (layer, token, token) of each encoder.

    `encoded` is the prompt with its textual inversions spelt out, where that is another text.
    """
    ids = input_ids.tolist()
    positions = prompt_positions(input_ids, tokenizer.eos_token_id, tokenizer.pad_token_id)
    span = slice(1, 1 + len(positions))
    text, words = read_words(tokenizer, prompt if encoded is None else encoded, ids, positions)
    return PromptText(
        prompt=prompt,
        tokens=tuple(str(tokenizer.convert_ids_to_tokens(ids[p])).removesuffix("</w>") for p in positions),
        positions=positions,
        words=tuple((word.text, word.positions) for word in words),
        attention=tuple(a[:, span, span].cpu() for a in attention),
        unused_layers=unused_layers,
        encoded=text,
        spans=tuple((word.start, word.end) for word in words),
    )


def merged(
    attention: Float[Tensor, "*layer token token"], words: Sequence[Sequence[int]]
) -> Float[Tensor, "*layer word word"]:
    """From pieces to words: what a word's pieces pay on average, and get in sum."""
    member = attention.new_zeros(len(words), attention.shape[-1])
    for row, pieces in enumerate(words):
        member[row, list(pieces)] = 1
    return (member / member.sum(1, keepdim=True)) @ attention @ member.T


def warn_of_lost_words(tokenizer: Tokenizer, prompt: str, longest: int) -> None:
    """Warns when a text encoder that reads `longest` tokens does not read all of a prompt, or not all its letters.

    The pipeline paints the rest, as it would anyway.
    """
    ids = tokenizer(prompt, verbose=False).input_ids
    if len(ids) > longest:
        warnings.warn(
            f"the prompt has {len(ids)} tokens and a text encoder reads {longest}; lost to it, as in the plain "
            f"pipeline: {tokenizer.decode(ids[longest - 1 : -1]).strip()!r}",
            stacklevel=2,
        )
    if lost := lost_letters(tokenizer, prompt):
        warnings.warn(
            f"the prompt is read without {', '.join(map(repr, lost))}, as in the plain pipeline: a text encoder does "
            "not know it. Another spelling may do better",
            stacklevel=2,
        )


def warn_of_prompt(tokenizers: Sequence[Any], prompt: str) -> None:
    """Warns of what a U-Net's text encoders lose of a prompt, or give unlike positions."""
    for tokenizer in tokenizers:
        warn_of_lost_words(tokenizer, prompt, tokenizer.model_max_length)
    warn_of_cuts(tokenizers, prompt)


def warn_of_cuts(tokenizers: Sequence[Any], prompt: str) -> None:
    """Warns when two tokenizers whose states stand side by side, as in SDXL, part a prompt into different tokens.

    From there on a position is of another word to the second encoder. Seen where the padding of one is a mark ("!!").
    """
    first, *others = (text_tokens(tokenizer, prompt) for tokenizer in tokenizers)
    for other in others:
        unlike = next((a for a, b in zip(first, other, strict=False) if (a.start, a.end) != (b.start, b.end)), None)
        if unlike is not None and first[-1].end > unlike.start:
            warnings.warn(
                f"the two text encoders part {prompt[unlike.start : unlike.end]!r} differently, so the words behind it "
                "stand at other positions for the second; their maps are of both. Leave it out",
                stacklevel=2,
            )


def at_least_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
