"""Sentences that put a concept to CLIP. Facts of the CLIP paper's ImageNet prompts (arXiv 2103.00020, 3.1.4)."""

from __future__ import annotations

_VIEWS = [
    *("bad", "low resolution", "cropped", "bright", "dark", "close-up", "black and white", "pixelated"),
    *("jpeg corrupted", "blurry", "good"),
]
_WORKS = ["rendering", "tattoo", "drawing", "painting", "sculpture", "doodle", "sketch", "rendition", "photo"]
_KINDS = ["hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small"]
_MADE_OF = ["embroidered", "plastic", "origami", "toy", "cartoon", "plushie"]


def _ensemble() -> tuple[str, ...]:
    """The 80 sentences over which OpenAI averages; all but four come with "a" and with "the"."""
    sentences = ["a photo of many {}.", "a photo of my {}.", "a photo of one {}.", "itap of my {}."]
    for article in ("a", "the"):
        sentences += [f"a {view} photo of {article} {{}}." for view in _VIEWS]
        sentences += [f"a {work} of {article} {{}}." for work in _WORKS]
        sentences += [f"a photo of {article} {kind} {{}}." for kind in _KINDS]
        sentences += [f"{article} {stuff} {{}}." for stuff in _MADE_OF]
        sentences += [f"{form} of {article} {{}}." for form in ("graffiti", "art", "itap")]
        sentences.append(f"{article} {{}} in a video game.")
    return tuple(sentences)


TEMPLATES = {"single": ("a photo of a {}.",), "ensemble": _ensemble()}
"""Value of the option `templates` -> sentences with a place for the concept."""
