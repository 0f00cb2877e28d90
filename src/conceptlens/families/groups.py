"""Which transformer classes of diffusers the method can see into, and why not where it cannot.

The test for a class: does its text change when the image changes? Only text that reads the image can be followed by
concepts that read the image.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Transformer classes that treat text alike.

    Attributes:
        name: in a few words.
        applies: whether the concept stream of the paper can run in such a model.
        reason: why, or why not.
        instead: what to do where there is no adapter.
        unserved: classes of this group, as diffusers names them, that have no file; the others name it in theirs.
    """

    name: str
    applies: bool
    reason: str
    instead: str
    unserved: tuple[str, ...] = ()


_ADD = "Add a file to families/entered (CONTRIBUTING.md), or use a family of the same kind that has one."
_FLOW = "Use FLUX.1, FLUX.2, Stable Diffusion 3, Qwen-Image or another family with an adapter (docs/models.md)."
_CROSS = (
    "Hold words against the image queries of its cross attention: conceptlens read PHOTO -c WORD --model MODEL, which "
    "is the method concept-cross-attention."
)
_OTHER = "Use a class that the method concept-cross-attention reads (PixArt, Sana, Wan, ...)."
_UNETS = (
    "Use maps of its cross attention: conceptlens generate PROMPT --model MODEL maps the prompt's words as it paints, "
    "conceptlens read PHOTO -c WORD --model MODEL finds any words in a picture."
)
UNET_METHOD = "daam"
"""The method that reads pictures with a U-Net; `ovam` does as well."""

DUAL = Group(
    "dual stream",
    True,
    "text has weights of its own in each block, reads the image and is updated",
    _ADD,
)
LAYERED_TEXT = Group(
    "dual stream with text states for each block",
    True,
    "each block takes part of its text from another layer of the language model, so a concept needs all of them",
    _ADD,
)
SHARED = Group(
    "shared weights, separate modulation",
    True,
    "text and image pass one attention as one sequence; the text part is updated",
    _ADD,
)
SINGLE = Group(
    "single stream",
    True,
    "text and image share all weights; the method runs, but nobody has shown yet that its maps mean as much",
    _FLOW,
)
GIST = Group(
    "text boiled down to a gist",
    False,
    "a perceiver mixes all words into gist tokens before the image meets them, so no row belongs to a concept",
    _FLOW,
    ("BriaFibo2Transformer2DModel",),
)
KEYS_ONLY = Group(
    "text as keys and values alone",
    False,
    "text is read by the image but asks nothing itself, so there is no text stream for a concept to follow",
    _CROSS,
)
BLIND_TEXT = Group(
    "text that cannot see the image",
    False,
    "a causal mask hides the image from the text, so a concept would give the same answer for every image",
    _FLOW,
    ("Cosmos3OmniTransformer", "OmniGenTransformer2DModel", "QwenImage21Transformer2DModel"),
)
_FIXED = "text is fixed and only read, block by block; no text stream is updated with the image"
CROSS = Group(
    "plain cross attention",
    False,
    _FIXED,
    _CROSS,
)
CROSS_OF_EDITORS = Group(
    "cross attention of models that go on from pictures",
    False,
    "text is only read, and every call needs a picture or a video to change besides, so a prompt alone makes no call",
    _OTHER,
    (
        "ChronoEditTransformer3DModel",
        "SanaWMTransformer3DModel",
        "WanAnimate2Transformer3DModel",
        "WanAnimateTransformer3DModel",
    ),
)
UNET = Group("cross attention of a U-Net", False, _FIXED, _UNETS, ("UNet2DConditionModel",))
OTHER_UNET = Group(
    "cross attention of a U-Net that no method reads",
    False,
    _FIXED,
    _OTHER,
    ("DreamLiteTransformer2DModel", "DreamLiteUNetModel"),
)
NO_TEXT = Group(
    "no text",
    False,
    "it paints from class numbers, so it knows no words",
    _FLOW,
    ("DiTTransformer2DModel",),
)
UNKNOWN = Group("unknown", False, "nobody has looked at this class yet", _ADD)
GROUPS = (
    *(DUAL, LAYERED_TEXT, SHARED, SINGLE),
    *(GIST, KEYS_ONLY, BLIND_TEXT),
    *(CROSS, CROSS_OF_EDITORS, UNET, OTHER_UNET),
    NO_TEXT,
)
