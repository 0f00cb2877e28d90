"""Transformers whose text is only keys and values of cross attention: where those layers are, and what feeds them.

What a layer does with its queries and keys is not written here: it is observed (`watch.cross_attention`). To serve
another class, add an entry to `CROSS_LAYOUTS` and its tiny pipeline to `tests/tiny_cross.py`.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from conceptlens.families.kinds.first_call import first_call, first_row, tokenizer_of
from conceptlens.families.kinds.layouts import Order
from conceptlens.families.kinds.tokens import EncodedText, OwnTokens, check_length, tokens_between
from conceptlens.values.errors import LibraryError, ModelError
from conceptlens.values.records import TokenGrid

METHOD = "concept-cross-attention"
"""The method that reads these classes."""


@dataclass(frozen=True)
class CrossLayout:
    """Where the cross attention of a transformer class is.

    Attributes:
        name: of the family, for people.
        blocks: the module list of the blocks.
        attention: a block's attention module from image to text.
        multiple: sides in pixels that the pipeline takes are multiples of this, and of a token's side.
        encoders: the endings of the pipeline's text encoders and tokenizers whose rows make the text, in this order.
        axes: how the call's latents lie, as einops names (batch channel frame row col); "" for the autoencoder's order.
        times: the arguments of the call that tell the noise level.
        clock: what those say of a noise level in 0..1; None for the pipeline's own timestep, scaled.
        aligned: whether the real tokens are moved to the front on their way to cross attention.
        fixed: arguments of the call that reading a photo needs otherwise than the pipeline has them.
        joint: where text and image stand in one softmax, which of their keys come first; else None.
        placed: whether the text's keys depend on the size of the picture.
        side: the side in pixels of what the pipeline paints, where neither its call nor its configuration tells.
        mode: the autoencoder's mode of a photo, where its own `encode` takes none; None for that.
    """

    name: str
    blocks: str = "transformer_blocks"
    attention: str = "attn2"
    multiple: int = 1
    encoders: tuple[str, ...] = ("",)
    axes: str = ""
    times: tuple[str, ...] = ("timestep",)
    clock: Callable[[float], float] | None = None
    aligned: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    joint: Order | None = None
    placed: bool = False
    side: Callable[[Any], int] | None = None
    mode: Callable[[Any, Tensor], Tensor] | None = None

    def layers(self, transformer: nn.Module) -> list[nn.Module]:
        """The cross-attention modules, first block first."""
        return [block.get_submodule(self.attention) for block in transformer.get_submodule(self.blocks).children()]


def _still_mode(vae: Any, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channel 1 rows cols"]:
    """The mode of the frame in the middle of a still, in one piece: this `encode` takes tiles of one size alone."""
    moments = vae.encoder(pixels[:, :, None].expand(-1, -1, vae.kernel[0], -1, -1))
    return vae.quant_conv(moments[:, :, moments.shape[2] // 2]).chunk(2, dim=1)[0][:, :, None]


CROSS_LAYOUTS: dict[str, CrossLayout] = {
    "AllegroTransformer3DModel": CrossLayout("Allegro", multiple=8, mode=_still_mode),
    "AnyFlowTransformer3DModel": CrossLayout(
        "AnyFlow",
        blocks="blocks",
        multiple=16,
        axes="batch frame channel row col",
        times=("timestep", "r_timestep"),
    ),
    "CosmosTransformer3DModel": CrossLayout("Cosmos", multiple=16, clock=lambda noise: noise),
    "HeliosTransformer3DModel": CrossLayout("Helios", blocks="blocks", multiple=16),
    "HunyuanDiT2DModel": CrossLayout("HunyuanDiT", blocks="blocks", multiple=16, encoders=("", "_2")),
    "Kandinsky5Transformer3DModel": CrossLayout(
        "Kandinsky 5",
        blocks="visual_transformer_blocks",
        attention="cross_attention",
        multiple=16,
        axes="batch frame row col channel",
    ),
    "Kandinsky6Transformer3DModel": CrossLayout(
        "Kandinsky 6",
        blocks="visual_transformer_blocks",
        attention="video_dec_block.cross_attention",
        multiple=16,
        axes="batch frame row col channel",
    ),
    # A photo has no sound, so the video tokens do not look at the noise that stands for it.
    "LTX2VideoTransformer3DModel": CrossLayout(
        "LTX-2", multiple=32, times=("timestep", "sigma"), aligned=True, fixed={"isolate_modalities": True}
    ),
    "LTXVideoTransformer3DModel": CrossLayout("LTX-Video", multiple=32),
    "LatteTransformer3DModel": CrossLayout("Latte", multiple=8),
    "LuminaNextDiT2DModel": CrossLayout("Lumina-Next", blocks="layers", multiple=16, clock=lambda noise: 1 - noise),
    "NucleusMoEImageTransformer2DModel": CrossLayout(
        "Nucleus-Image",
        attention="attn",
        joint="image first",
        placed=True,
        side=lambda pipeline: pipeline.default_sample_size * pipeline.vae_scale_factor,
    ),
    "PRXTransformer2DModel": CrossLayout(
        "PRX",
        blocks="blocks",
        attention="attention",
        joint="text first",
        side=lambda pipeline: pipeline.default_sample_size,
    ),
    "PixArtTransformer2DModel": CrossLayout("PixArt", multiple=8),
    "SanaTransformer2DModel": CrossLayout("Sana", multiple=32),
    "SanaVideoTransformer3DModel": CrossLayout("Sana-Video", multiple=32),
    "SkyReelsV2Transformer3DModel": CrossLayout("SkyReels-V2", blocks="blocks", multiple=16),
    "WanTransformer3DModel": CrossLayout("Wan", blocks="blocks", multiple=16),
    "WanVACETransformer3DModel": CrossLayout("Wan VACE", blocks="blocks", multiple=16),
}
"""By transformer class."""

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


@dataclass(frozen=True)
class TextCall:
    """A text on its way into the transformer: the arguments of the call, and its tokens for each encoder."""

    arguments: Mapping[str, Any]
    tokens: tuple[EncodedText, ...]


def text_call(
    pipeline: Any, layout: CrossLayout, text: str, size: tuple[int, int], options: Mapping[str, Any]
) -> TextCall:
    """What the pipeline would ask of its transformer for a text, without guidance.

    Args:
        pipeline: of a class in `CROSS_LAYOUTS`.
        layout: of its transformer.
        text: a prompt or a concept.
        size: (width, height) in pixels of the picture that would be painted.
        options: further keywords of the pipeline call.

    Raises:
        ModelError: when the pipeline fails before the call.
        LibraryError: when it lacks a package.
    """
    sized = {**options, **_PLAIN, **_ONE_FRAME, "width": size[0], "height": size[1]}
    with _any_size(pipeline, size), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands tensors to NumPy
        try:
            arguments, tokens = first_call(pipeline, text, sized, layout.encoders)
        except NameError as error:
            raise missing_package(pipeline, error) from error
    rows = len(arguments["hidden_states"])
    if rows != 1:
        raise ModelError(
            f"{type(pipeline).__name__} calls its transformer with {rows} rows for one picture and one text: whose they"
            " are is not known. Load the model as its plain text-to-image pipeline."
        )
    return TextCall({**arguments, **layout.fixed}, tuple(tokens))


def missing_package(pipeline: Any, error: NameError) -> LibraryError:
    """What to tell of the name that diffusers leaves undefined where an import is not installed."""
    name = str(error.name)
    package = {"transforms": "torchvision"}.get(name, name)
    return LibraryError(
        f"{type(pipeline).__name__} needs the package {package!r}, which is not installed. Run: pip install {package}"
    )


@contextmanager
def _any_size(pipeline: Any, size: tuple[int, int]) -> Iterator[None]:
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
    pipeline: Any, layout: CrossLayout, name: str, text: TextCall, empty: TextCall, rows: int
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


def check_room(pipeline: Any, name: str, options: Mapping[str, Any]) -> None:
    """Refuses, before anything is run, a concept that the pipeline's own length cannot hold. Raises `ConceptError`."""
    known = inspect.signature(pipeline.__call__).parameters
    length = options.get("max_sequence_length") or getattr(known.get("max_sequence_length"), "default", None)
    if isinstance(length, int):
        check_length(tokenizer_of(pipeline), name, length)


def vae_side(pipeline: Any) -> int:
    """Pixels of a latent's side."""
    names = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
    return next(getattr(pipeline, name) for name in names if hasattr(pipeline, name))


def token_side(pipeline: Any) -> int:
    """Pixels of a token's side."""
    patch = pipeline.transformer.config.patch_size
    return vae_side(pipeline) * (patch if isinstance(patch, int) else patch[-1])


def side_multiple(pipeline: Any, layout: CrossLayout) -> int:
    """Sides of a picture must be a multiple of this many pixels."""
    return math.lcm(token_side(pipeline), layout.multiple)


def painted_area(pipeline: Any, layout: CrossLayout) -> int:
    """Pixels of the picture that the pipeline paints unless told otherwise."""
    if layout.side is not None:
        return layout.side(pipeline) ** 2
    known = inspect.signature(pipeline.__call__).parameters
    height, width = known["height"].default, known["width"].default
    if height and width:
        return height * width
    config = pipeline.transformer.config
    sides = [getattr(config, name, None) or config.sample_size for name in ("sample_height", "sample_width")]
    return math.prod(sides) * vae_side(pipeline) ** 2


def clean_latents(
    pipeline: Any, layout: CrossLayout, pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch channel ..."]:
    """The autoencoder's mode in the transformer's units; (batch, channel, 1, rows, cols) for a video model."""
    vae = pipeline.vae
    if layout.mode is None:
        made = vae.encode(pixels[:, :, None] if "3d" in type(vae.encoder).__name__.lower() else pixels)
        latents = made.latent if hasattr(made, "latent") else made.latent_dist.mode()
    else:
        latents = layout.mode(vae, pixels)
    scaling = getattr(vae.config, "scaling_factor", None) or 1.0
    # LTX-Video keeps its statistics as buffers, Wan in its configuration.
    kept = {**vae.config, **dict(vae.named_buffers(recurse=False))}
    mean, std = kept.get("latents_mean"), kept.get("latents_std")
    if mean is None or std is None:
        return latents * scaling  # none of these pipelines minds a `shift_factor`
    mean, std = (torch.as_tensor(part).to(latents).view(1, -1, 1, 1, 1) for part in (mean, std))
    return (latents - mean) / std * scaling


def _on_straight_path(scheduler: Any) -> bool:
    told = (getattr(scheduler.config, "prediction_type", ""), getattr(scheduler.config, "use_flow_sigmas", False))
    named = type(scheduler).__name__.startswith(("FlowMatch", "FlowMap", "Piflow"))
    return named or told[0] == "flow_prediction" or bool(told[1])


def refusal(pipeline: Any) -> str | None:
    """Why a pipeline of a class in `CROSS_LAYOUTS` cannot be read, as the end of a sentence on it; None if it can."""
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
    if not _on_straight_path(scheduler) and not hasattr(scheduler, "alphas_cumprod"):
        return (
            f"noises pictures as {type(scheduler).__name__} does, which {METHOD} cannot do to a photo. "
            "Use a model of this family with a flow scheduler."
        )
    return None


def _timestep(scheduler: Any, noise: float) -> float:
    """The training timestep of a noise level in 0..1."""
    last = scheduler.config.num_train_timesteps
    return noise * last if _on_straight_path(scheduler) else float(round(noise * (last - 1)))


def noised(
    scheduler: Any, clean: Float[Tensor, "batch channel ..."], noise: Float[Tensor, "batch channel ..."], sigma: float
) -> Tensor:
    """Latents at a noise level in 0..1.

    On the straight path for flow models; sqrt(a) x0 + sqrt(1 - a) noise along the training timesteps of others.
    """
    if _on_straight_path(scheduler):
        return torch.lerp(clean, noise, sigma)
    kept = float(scheduler.alphas_cumprod[int(_timestep(scheduler, sigma))])
    return kept**0.5 * clean + (1 - kept) ** 0.5 * noise


def at_noise(pipeline: Any, layout: CrossLayout, arguments: Mapping[str, Any], noise: float) -> dict[str, Any]:
    """The arguments of the pipeline's first call, which are told another noise level in 0..1.

    The call's own value is scaled, since pipelines multiply the scheduler's timestep before they hand it on.
    """
    ratio = _timestep(pipeline.scheduler, noise) / float(pipeline.scheduler.timesteps[0])
    moved: dict[str, Tensor] = {}
    for name in layout.times:
        own: Tensor = arguments[name]
        told = own.double() * ratio if layout.clock is None else torch.full_like(own.double(), layout.clock(noise))
        moved[name] = told.to(own.dtype) if own.is_floating_point() else told.round().to(own.dtype)
    return {**arguments, **moved}


def with_latents(pipeline: Any, layout: CrossLayout, arguments: Mapping[str, Any], latents: Tensor) -> dict[str, Any]:
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


def grid_of_size(pipeline: Any, size: tuple[int, int]) -> TokenGrid:
    """The token grid of a picture of (width, height) pixels."""
    side = token_side(pipeline)
    return TokenGrid(size[1] // side, size[0] // side)
