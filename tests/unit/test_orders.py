"""Orders: what a call of `generate` asks for, and painters, which may paint one twice."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

import conceptlens as cl
from conceptlens.guidance import TSAM, GuidedMaps, GuidedPainter
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.readers.orders import Order, Request
from conceptlens.readers.text_streams import StreamReader
from conceptlens.session import Session

PROMPT, WORDS = "a red house and a blue boat", ["house", "boat"]


def ordered(demo: Session, prompt: Any = PROMPT, **options: Any) -> Order:
    pipeline = {**demo.generate_defaults, "num_inference_steps": 2, **options.pop("pipeline", {})}
    assert isinstance(demo.reader, StreamReader)
    return Order.of(demo.reader.model, Request(prompt, WORDS, pipeline=pipeline, **options), WORDS, demo.recipe())


def test_an_order_is_whole_and_frozen(demo: Session) -> None:
    order = ordered(
        demo, [PROMPT, "a sun"], seed=3, background=["sky", "house"], pipeline={"negative_prompt": "a moon"}
    )
    assert order.prompts == (PROMPT, "a sun")
    assert (order.concepts, order.background, order.names) == (("house", "boat"), ("sky",), ("house", "boat", "sky"))
    assert order.pipeline["negative_prompt"] == ["a moon", "a moon"]
    with pytest.raises(FrozenInstanceError):
        order.seed = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_every_call_of_an_order_begins_with_the_same_noise(demo: Session) -> None:
    order = ordered(demo, seed=3)
    first, second = (torch.randn(4, generator=order.arguments()["generator"]) for _ in range(2))
    assert torch.equal(first, second)
    own = torch.Generator()
    given = ordered(demo, pipeline={"generator": own})
    assert given.seed is None
    assert given.arguments()["generator"] is own
    with pytest.raises(cl.RecipeError, match="both seed and generator were given"):
        ordered(demo, seed=3, pipeline={"generator": own})
    assert ordered(demo).seed != ordered(demo).seed


def test_guidance_wraps_a_painter_and_leaves_the_session_alone(demo: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    order, painter = ordered(demo, seed=3), demo.reader.painter()
    expected = demo.generate(PROMPT, WORDS, seed=3, num_inference_steps=2)
    monkeypatch.setattr(Session, "generate", lambda *_, **__: pytest.fail("guidance called the session"))
    guidance = TSAM.preset("transformer", alpha=0.05, steps=(0,))
    (guided,) = GuidedPainter(painter, guidance, compare=True).paint(order)
    (plain,) = painter.paint(order)
    assert isinstance(guided, GuidedMaps)
    assert isinstance(plain, ConceptMaps)
    assert isinstance(guided.plain, ConceptMaps)
    for maps in (plain, guided.plain):
        assert maps.image.tobytes() == expected.image.tobytes()
        assert torch.equal(maps.scores, expected.scores)
    assert (guided.scores - plain.scores).abs().max() > 1e-2
    assert (guided.seed, plain.seed) == (3, 3)
    with pytest.raises(cl.RecipeError, match="maps of the prompt's own pass alone"):
        GuidedPainter(painter, guidance).paint(replace(order, recipe=replace(order.recipe, branch="negative")))
