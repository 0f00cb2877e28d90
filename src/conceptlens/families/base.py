"""What a model family must say about itself so that the readers can read it.

Abstract methods, and a few with the answer of most families: an image autoencoder, no rows besides the concepts.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conceptlens.families.groups import Group
from conceptlens.families.kinds.layouts import AllBlocks
from conceptlens.values.errors import RecipeError
from conceptlens.values.models import Model, Module, Pipeline
from conceptlens.values.recipe import Branch, Recipe
from conceptlens.values.records import CallRecord, R, StreamLayer


@dataclass(frozen=True)
class Concepts:
    """Concepts as the model's text encoder sees them.

    Attributes:
        names: one per map.
        tokens: one vector per row of the concept stream; the first `extra` rows belong to no concept.
        pooled: the pooled text vector that modulates the stream; None means the prompt's.
        extra: leading rows that take part in the attention and are dropped from the maps.
        pieces: the token split of each name, for showing.
        positions: where each row stands in the text, for families that rotate text by its position; None: at its start.
        length: tokens, padding included, at which each name was encoded; None where the family has but one length.
    """

    names: tuple[str, ...]
    tokens: Float[Tensor, "concept dim"]
    pooled: Float[Tensor, " pooled"] | None
    extra: int = 0
    pieces: tuple[tuple[str, ...], ...] = ()
    positions: tuple[int, ...] | None = None
    length: int | None = None


@dataclass(frozen=True)
class Tap:
    """Where one tensor of the image side passes by: the input or output of a submodule of a block.

    `argument` names the input where it is not the first; `select` takes what is wanted of an output.
    """

    module: Module
    side: str = "output"
    select: Callable[[Tensor], Tensor] | None = None
    argument: str | None = None


@dataclass(frozen=True)
class Projection:
    """The text side of one block applied to the concept stream, up to the attention.

    `unrotated` is the same before the rotation of text by its position; None where text is not rotated.
    """

    query: Float[Tensor, "batch head concept head_dim"]
    key: Float[Tensor, "batch head concept head_dim"]
    value: Float[Tensor, "batch head concept head_dim"]
    modulation: tuple[Tensor, ...]
    unrotated: Projection | None = None


@dataclass(frozen=True)
class PromptEncoders:
    """How a family's text-to-image pipeline uses its text encoders: what guidance and the methods on prompts need.

    Attributes:
        pipeline: its class.
        clip: endings of the names of its CLIP encoders, `text_encoder` and so on; they share a tokenizer's cuts.
        t5: the ending of its T5 encoder.
        plain: options without which a negative prompt would be encoded, too.
        clip_rows: whether CLIP's states are rows of the text stream, before T5's; else only its pooled vector is used.
        unused: how many of CLIP's last layers never reach the transformer.
        time: what the scheduler's timesteps are divided by.
    """

    pipeline: str
    clip: tuple[str, ...]
    t5: str
    plain: Mapping[str, float]
    clip_rows: bool = False
    unused: int = 0
    time: int = 1


class ModelAdapter(ABC, Generic[R]):
    """What must be known of a model to watch it paint and to say what its text encoders make of a concept.

    Holds the transformer, and nothing that changes. `name` is what users read in listings; `classes` are the
    transformer classes (as diffusers names them) it serves.
    """

    name: str
    classes: ClassVar[tuple[str, ...]]
    group: ClassVar[Group | None] = None
    """How these classes treat text."""
    all_blocks: ClassVar[AllBlocks | None] = None
    """Where single-stream blocks stand behind the dual-stream ones: how both are entered again."""
    prompts: ClassVar[PromptEncoders | None] = None
    """Where guidance and the methods on prompts serve the family: how its pipeline reads a prompt."""
    caveat: str = ""
    """What users should know about these maps before they trust them; stands in every result."""
    timestep: str = "timestep"
    """The argument of the transformer that says how noisy the image is."""
    latents: str = "hidden_states"
    """The argument of the transformer that holds the noised images, one row (or element) each."""
    guided_batch: tuple[Branch, ...] = ()
    """Whose rows one call holds under classifier-free guidance, in equal parts; () where each has a call of its own."""
    single_stream: bool = False
    """Whether single-stream blocks are followed behind the dual-stream ones."""
    one_picture: bool = False
    """Whether the model takes one picture at a time."""
    one_area: bool = False
    """Whether the area that the pipeline paints is the most that the transformer takes."""

    def __init__(self, transformer: Model) -> None:
        self.transformer = transformer  # diffusers modules are read by attribute; they carry no types

    @abstractmethod
    def recipe(self, depth: int) -> Recipe:
        """The family's default recipe for a model with `depth` blocks."""

    def paper_recipe(self, depth: int) -> Recipe:
        """What the official code does for this family, quirks included.

        Raises:
            RecipeError: for a family that the official code does not serve.
        """
        raise RecipeError(f"no preset 'paper' for {self.name}: the official code does not serve it. Leave preset out.")

    def check(self, recipe: Recipe) -> None:
        """Refuses what the family cannot do. Raises `RecipeError`."""
        return

    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The blocks that carry a text stream, in order."""

    @abstractmethod
    def taps(self, block: Module) -> Mapping[str, Tap]:
        """Where the parts of a `LayerRecord` pass by in this block."""

    @abstractmethod
    def record(self, block: Module, layer: int, call: CallRecord, tapped: Mapping[str, Tensor], rows: slice) -> R:
        """The record of one block out of what was tapped, for the given rows of the batch."""

    @abstractmethod
    def observe(self, arguments: Mapping[str, Any], rows: slice, step: int, previous: CallRecord | None) -> CallRecord:
        """What the concept stream needs of one transformer call: the given rows of its arguments by name.

        `previous` is the last call of the same run: what has not changed since (grid, rotation) is taken from it.
        """

    def is_perturbed(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a call leaves out layers, as skip-layer guidance does, so that it is neither prompt's own."""
        return False

    @abstractmethod
    def embed(self, pipeline: Pipeline, names: tuple[str, ...], recipe: Recipe, options: Mapping[str, Any]) -> Concepts:
        """Concepts through the pipeline's own text encoders; `options` are the pipeline's call keywords."""

    def trained_text_length(self) -> int | None:
        """Tokens of text, padding included, that the checkpoint was trained with, where that is known.

        T5 attends to its padding, so that at another length the same words become other vectors.
        """
        return None

    def text_length(self, pipeline: Pipeline, options: Mapping[str, Any]) -> int:
        """Tokens, padding included, at which a pipeline with the keyword `max_sequence_length` encodes a text.

        That of the call, or else the checkpoint's own, or else the pipeline's default.
        """
        given = options.get("max_sequence_length") or self.trained_text_length()
        return given or inspect.signature(pipeline.__call__).parameters["max_sequence_length"].default

    def concept_length(
        self, pipeline: Pipeline | None, options: Mapping[str, Any], stated: int | None = None
    ) -> int | None:
        """Tokens, padding included, at which concepts are encoded; None where the pipeline has no say in it.

        The checkpoint's own where it is known, or else that of the call's prompt.

        Args:
            pipeline: None for what holds of every call.
            options: of the call.
            stated: what the model's folder says in `conceptlens.json`.
        """
        known = stated or self.trained_text_length() or options.get("max_sequence_length")
        if known or pipeline is None or "max_sequence_length" not in inspect.signature(pipeline.__call__).parameters:
            return known
        return self.text_length(pipeline, options)

    def encode(
        self, pipeline: Pipeline, pixels: Float[Tensor, "batch 3 ... width"]
    ) -> Float[Tensor, "batch channel ... cols"]:
        """Clean latents as the transformer was trained on them: the autoencoder's mode, shifted and scaled.

        Args:
            pipeline: whose `vae` is used.
            pixels: in -1..1, on the device and in the dtype of the autoencoder: pictures, (batch, 3, height, width), or
                where there is a `frame_step` films, (batch, 3, frame, height, width).

        Returns:
            (batch, channel, rows, cols), or (batch, channel, frame, rows, cols) of films.
        """
        vae = pipeline.vae
        latents = vae.encode(pixels).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def add_noise(self, pipeline: Pipeline, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Latents at a noise level in 0..1; on the straight path of flow matching: (1 - sigma) clean + sigma noise."""
        return torch.lerp(clean, noise, sigma)

    def native_area(self, pipeline: Pipeline) -> int:
        """Pixels of a picture in the size that the pipeline paints unless told otherwise."""
        return (getattr(pipeline, "default_sample_size", 128) * pipeline.vae_scale_factor) ** 2

    @abstractmethod
    def side_multiple(self, pipeline: Pipeline) -> int:
        """Image sides must be a multiple of this many pixels."""

    def frame_step(self, pipeline: Pipeline) -> int | None:
        """Frames of a film that share one row of the patch grid in time, behind the first frame, which stands alone.

        None where the family reads pictures alone; else its `encode` and `prepare` take films as well.
        """
        return None

    def native_frames(self, pipeline: Pipeline) -> int:
        """Frames of a film as long as the pipeline, or else the model, makes it unless told otherwise."""
        usual = inspect.signature(pipeline.__call__).parameters["num_frames"].default
        return usual or self.transformer.config.sample_frames

    @abstractmethod
    def prepare(
        self,
        pipeline: Pipeline,
        latents: Float[Tensor, "batch channel ... cols"],
        prompt: str,
        sigma: float,
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Arguments of one transformer call on noised `latents` of `encode`, as the pipeline itself would make them."""


class DiTAdapter(ModelAdapter[StreamLayer]):
    """A family whose text half of a block is written out here, so that concepts need no image rows: the fast way."""

    shared_arguments: ClassVar[frozenset[str]] = frozenset({"img_ids", "cos", "sin", "shapes"})
    """What `observe` keeps for a whole batch: positions and rotation; all else has a row for each image, or one."""

    def joined_call(self, calls: Sequence[CallRecord], rows: int) -> CallRecord:
        """One call with the rows of several of the same grid, each of which has so many."""
        first = calls[0]
        arguments = {
            name: tensor
            if name in self.shared_arguments
            else torch.cat([call.arguments[name].expand(rows, *tensor.shape[1:]) for call in calls])
            for name, tensor in first.arguments.items()
        }
        return replace(first, arguments=arguments)

    def text_taps(self, block: Module) -> Mapping[str, Tap]:
        """Where the "query", "key" and "out" of the prompt pass by in this block; a family with `prompts` has them all.

        Queries and keys are after QK-norm and before rotation, `out` before its projection. A block that passes no
        text on lacks "out".
        """
        return {}

    @abstractmethod
    def heads(self, block: Module, tensor: Tensor) -> Float[Tensor, "batch head image head_dim"]:
        """A tapped query, key or value with its head axis, whatever layout the model computes in."""

    def image_rows(self, tensor: Tensor, call: CallRecord) -> Tensor:
        """The image tokens of a tapped tensor, for families in which text and image pass a tap as one sequence."""
        return tensor

    @abstractmethod
    def rotate(
        self, heads: Float[Tensor, "batch head image head_dim"], call: CallRecord
    ) -> Float[Tensor, "batch head image head_dim"]:
        """Image queries or keys with the model's positional rotation."""

    def unrotate(
        self, heads: Float[Tensor, "batch head image head_dim"], call: CallRecord
    ) -> Float[Tensor, "batch head image head_dim"]:
        """Image queries or keys without it again, in float32 or better."""
        precise = heads.to(torch.promote_types(heads.dtype, torch.float32))
        # A rotation is undone by its transpose, which is what autograd computes of any linear function.
        transposed = torch.func.vjp(lambda plain: self.rotate(plain, call), precise)[1]
        return transposed(precise)[0]

    def record(
        self, block: Module, layer: int, call: CallRecord, tapped: Mapping[str, Tensor], rows: slice
    ) -> StreamLayer:
        image = {name: self.image_rows(tensor, call) for name, tensor in tapped.items()}
        heads = {name: self.heads(block, tensor)[rows] for name, tensor in image.items() if name != "out"}
        return StreamLayer(
            layer=layer,
            call=call,
            key=self.rotate(heads["key"], call),
            value=heads["value"],
            out=image["out"][rows] if "out" in image else None,
            query=heads.get("query"),
        )

    @abstractmethod
    def begin(self, concepts: Concepts, call: CallRecord) -> tuple[Float[Tensor, "batch concept dim"], Any]:
        """The concept stream before the first block, and what `project` needs at every block.

        The latter is opaque to readers: the vector that modulates the stream, and the rotation of the concepts where
        text is rotated. A family whose text stream starts with learned tokens puts `leading_rows` of them in front.
        """

    @property
    def leading_rows(self) -> int:
        """Rows that `begin` puts before those of the concepts; they take part in the attention and have no maps."""
        return 0

    @abstractmethod
    def project(self, block: Module, hidden: Tensor, conditioning: Any) -> Projection:  # noqa: ANN401 - opaque: what `begin` of the same family returned
        """The block's text-side norm, modulation, q/k/v, QK-norm and rotation."""

    @abstractmethod
    def advance(
        self, block: Module, hidden: Tensor, out: Float[Tensor, "batch concept dim"], modulation: tuple[Tensor, ...]
    ) -> Tensor | None:
        """The block's text-side residual update; None where the text stream ends with this block."""
