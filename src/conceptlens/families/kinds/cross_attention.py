"""Transformers whose text is only keys and values of cross attention: where those layers are, and what feeds them.

What a layer does with its queries and keys is not written here: it is observed (`watch.cross_attention`). Which classes
are served, and what is peculiar to them, is said in `families.cross`.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from conceptlens.families.groups import CROSS, Group
from conceptlens.families.kinds.first_call import PromptCall, first_row, prompt_call, tokenizer_of
from conceptlens.families.kinds.latents import clean_latents, is_flow, timestep_of
from conceptlens.families.kinds.layouts import Order
from conceptlens.families.kinds.tokens import OwnTokens, check_length, tokens_between
from conceptlens.values.errors import LibraryError, ModelError
from conceptlens.values.models import Model, Pipeline
from conceptlens.values.records import TokenGrid

METHOD = "concept-cross-attention"
"""The method that reads these classes."""


class CrossLayout:
    """Where the cross attention of some transformer classes is. What is peculiar to a family overrides a method.

    Attributes:
        name: of the family, for people.
        classes: as diffusers names them.
        group: how they treat text.
        blocks: the module list of the blocks.
        attention: a block's attention module from image to text.
        multiple: sides in pixels that the pipeline takes are multiples of this, and of a token's side.
        encoders: the endings of the pipeline's text encoders and tokenizers whose rows make the text, in this order.
        axes: order of the call's latents, as einops names (batch channel frame row col); "" for the autoencoder's.
        times: the arguments of the call that tell the noise level.
        aligned: whether the real tokens are moved to the front on their way to cross attention.
        joint: where text and image stand in one softmax, which of their keys come first; else None.
        placed: whether the text's keys depend on the size of the picture.
    """

    name: str
    classes: ClassVar[tuple[str, ...]]
    group: ClassVar[Group] = CROSS
    blocks: str = "transformer_blocks"
    attention: str = "attn2"
    multiple: int = 1
    encoders: tuple[str, ...] = ("",)
    axes: str = ""
    times: tuple[str, ...] = ("timestep",)
    aligned: bool = False
    joint: Order | None = None
    placed: bool = False

    def layers(self, transformer: nn.Module) -> list[nn.Module]:
        """The cross-attention modules, first block first."""
        return [block.get_submodule(self.attention) for block in transformer.get_submodule(self.blocks).children()]

    def call_options(self, pipeline: Pipeline) -> dict[str, Any]:
        """Further keywords of a pipeline call for a single picture; those that it does not know are left out."""
        return {}

    def clock(self, noise: float) -> float | None:
        """What `times` say of a noise level in 0..1; None for the pipeline's own timestep, scaled."""
        return None

    def default_side(self, pipeline: Pipeline) -> int | None:
        """The side in pixels of what the pipeline paints; None where its call or its configuration tells."""
        return None

    def clean_latents(
        self, vae: Model, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channel ..."]:
        """A photo as latents in the transformer's units."""
        return clean_latents(vae, pixels, shifted=False)  # none of these pipelines minds a `shift_factor`

    def for_photo(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of the call as reading a photo needs them."""
        return arguments


_PLAIN = {
    "use_resolution_binning": False,
    "clean_caption": False,
    "num_inference_steps": 4,
    "audio_guidance_scale": 1.0,
    "sample_audio": False,
    "use_mean_velocity": False,
}
"""The size that was asked for and the text as it was given; steps of which the first is not at timestep 0, as the only
one may be; no sound, and no guidance of it; the velocity at one noise level, not the mean over a step."""
_ONE_FRAME = {"num_frames": 1, "frames": 1, "video_length": 1, "num_latent_frames_per_chunk": 1}


def text_call(
    pipeline: Pipeline, layout: CrossLayout, text: str, size: tuple[int, int], options: Mapping[str, Any]
) -> PromptCall:
    """What the pipeline would ask of its transformer for a text, without guidance.

    Args:
        pipeline: with such a transformer.
        layout: of its transformer.
        text: a prompt or a concept.
        size: (width, height) in pixels of the picture that would be painted.
        options: further keywords of the pipeline call.

    Raises:
        ModelError: when the pipeline fails before the call.
        LibraryError: when it lacks a package.
    """
    sized = {**options, **_PLAIN, **_ONE_FRAME, "width": size[0], "height": size[1], **layout.call_options(pipeline)}
    with _any_size(pipeline, size), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands tensors to NumPy
        try:
            call = prompt_call(pipeline, text, sized, layout.encoders)
        except NameError as error:
            raise missing_package(pipeline, error) from error
    rows = len(call.arguments["hidden_states"])
    if rows != 1:
        raise ModelError(
            f"{type(pipeline).__name__} calls its transformer with {rows} rows for one picture and one text: whose they"
            " are is not known. Load the model as its plain text-to-image pipeline."
        )
    return replace(call, arguments=layout.for_photo(call.arguments))


def missing_package(pipeline: Pipeline, error: NameError) -> LibraryError:
    """The error for a name that diffusers leaves undefined where an import is not installed."""
    name = str(error.name)
    package = {"transforms": "torchvision"}.get(name, name)
    return LibraryError(
        f"{type(pipeline).__name__} needs the package {package!r}, which is not installed. Run: pip install {package}"
    )


@contextmanager
def _any_size(pipeline: Pipeline, size: tuple[int, int]) -> Iterator[None]:
    """Inside it, a pipeline that moves other sizes to one of its `resolutions` takes this one as it is."""
    own = getattr(pipeline, "resolutions", None)
    try:
        if own is not None:
            pipeline.resolutions = [*own, size]
        yield
    finally:
        if own is not None:
            pipeline.resolutions = own


def own_rows(
    pipeline: Pipeline, layout: CrossLayout, name: str, text: PromptCall, empty: PromptCall, rows: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Which of the text's `rows`, as cross attention gets them, are a concept's own, and the pieces they stand for.

    Raises:
        ConceptError: when the concept is longer than an encoder reads, or has no token.
    """
    positions: list[int] = []
    pieces: list[str] = []
    start = 0
    for ending, read, none in zip(layout.encoders, text.tokens, empty.tokens, strict=True):
        length = rows if len(layout.encoders) == 1 else len(read.states)
        own: OwnTokens = tokens_between(tokenizer_of(pipeline, ending), name, read, none, length)
        first = read.start if layout.aligned else first_row(pipeline, length, read)
        positions += [start + place - first for place in own.positions]
        pieces += own.pieces
        start += length
    return tuple(positions), tuple(pieces)


def check_room(pipeline: Pipeline, name: str, options: Mapping[str, Any]) -> None:
    """Refuses, before anything is run, a concept that the pipeline's own length cannot hold. Raises `ConceptError`."""
    known = inspect.signature(pipeline.__call__).parameters
    length = options.get("max_sequence_length") or getattr(known.get("max_sequence_length"), "default", None)
    if isinstance(length, int):
        check_length(tokenizer_of(pipeline), name, length)


def vae_side(pipeline: Pipeline) -> int:
    """Pixels of a latent's side."""
    names = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
    return next(getattr(pipeline, name) for name in names if hasattr(pipeline, name))


def token_side(pipeline: Pipeline) -> int:
    """Pixels of a token's side."""
    patch = pipeline.transformer.config.patch_size
    return vae_side(pipeline) * (patch if isinstance(patch, int) else patch[-1])


def side_multiple(pipeline: Pipeline, layout: CrossLayout) -> int:
    """Sides of a picture must be a multiple of this many pixels."""
    return math.lcm(token_side(pipeline), layout.multiple)


def painted_area(pipeline: Pipeline, layout: CrossLayout) -> int:
    """Pixels of the picture that the pipeline paints unless told otherwise."""
    side = layout.default_side(pipeline)
    if side is not None:
        return side**2
    known = inspect.signature(pipeline.__call__).parameters
    height, width = known["height"].default, known["width"].default
    if height and width:
        return height * width
    config = pipeline.transformer.config
    sides = [getattr(config, name, None) or config.sample_size for name in ("sample_height", "sample_width")]
    return math.prod(sides) * vae_side(pipeline) ** 2


def refusal(pipeline: Pipeline) -> str | None:
    """Why a pipeline of such a class cannot be read, as the end of a sentence on it; None if it can."""
    scheduler = pipeline.scheduler
    if getattr(pipeline, "transformer_2", None) is not None:
        return (
            f"paints with two transformers, one for each half of the noise; {METHOD} reads one. "
            "Use a model with a single transformer."
        )
    if getattr(pipeline.transformer.config, "attention_type", None) == "nabla":
        return (
            f"moves its image tokens into blocks for sparse attention; {METHOD} needs them in rows. "
            "Use a model of this family with full attention."
        )
    if not is_flow(scheduler) and not hasattr(scheduler, "alphas_cumprod"):
        return (
            f"noises pictures as {type(scheduler).__name__} does, which {METHOD} cannot do to a photo. "
            "Use a model of this family with a flow scheduler."
        )
    return None


def at_noise(pipeline: Pipeline, layout: CrossLayout, arguments: Mapping[str, Any], noise: float) -> dict[str, Any]:
    """The arguments of the pipeline's first call at another noise level in 0..1.

    The call's own value is scaled, since pipelines multiply the scheduler's timestep before they hand it on.
    """
    ratio = timestep_of(pipeline.scheduler, noise) / float(pipeline.scheduler.timesteps[0])
    clock = layout.clock(noise)
    moved: dict[str, Tensor] = {}
    for name in layout.times:
        first: Tensor = arguments[name]
        level = first.double() * ratio if clock is None else torch.full_like(first.double(), clock)
        moved[name] = level.to(first.dtype) if first.is_floating_point() else level.round().to(first.dtype)
    return {**arguments, **moved}


def with_latents(
    pipeline: Pipeline, layout: CrossLayout, arguments: Mapping[str, Any], latents: Tensor
) -> dict[str, Any]:
    """The arguments with other latents, laid out as the call's own; conditions behind their channels stay."""
    own = arguments["hidden_states"]
    if layout.axes:
        latents = latents[:, :, None] if latents.ndim == 4 else latents
        latents = rearrange(latents, f"batch channel frame row col -> {layout.axes}")
        place = layout.axes.split().index("channel")
        rest = own.narrow(place, latents.shape[place], own.shape[place] - latents.shape[place])
        latents = torch.cat([latents, rest.to(latents)], dim=place)
    elif own.ndim == 3 and latents.ndim > 3:
        patch = pipeline.transformer.config.patch_size
        packed = "batch channel frame (row p) (col q) -> batch (frame row col) (channel p q)"
        latents = rearrange(latents, packed, p=patch, q=patch)
    return {**arguments, "hidden_states": latents.reshape(own.shape).to(own)}


def grid_of_size(pipeline: Pipeline, size: tuple[int, int]) -> TokenGrid:
    """The token grid of a picture of (width, height) pixels."""
    side = token_side(pipeline)
    return TokenGrid(size[1] // side, size[0] // side)
