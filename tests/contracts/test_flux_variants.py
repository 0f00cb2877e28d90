"""Relatives of FLUX.1 text-to-image, opened from ordinary folders: Kontext, Fill, inpainting, picture to picture."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxImg2ImgPipeline, FluxInpaintPipeline, FluxKontextPipeline
from PIL import Image
from test_adapters import adapter_for, own_text, run, session_of

import conceptlens as cl
from conceptlens.ops.accumulate import ScoreAccumulator
from conceptlens.readers.stream import ConceptProbe, ConceptStream
from conceptlens.session import Session
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import TokenGrid
from tiny_models import FAMILIES, flux2_klein_pipeline, flux_pipeline, flux_transformer

SIZE = {"height": 16, "width": 24, "max_sequence_length": 64, "num_inference_steps": 2}


def picture() -> Image.Image:
    made = Image.new("RGB", (24, 16), (200, 30, 30))
    made.paste((20, 20, 220), (12, 0, 24, 16))
    return made


def opened(kind: Any, folder: Path, **changes: Any) -> Session:
    parts = flux_pipeline(**changes).components
    known = inspect.signature(kind.__init__).parameters
    kind(**{name: part for name, part in parts.items() if name in known}).save_pretrained(folder)
    session = cl.load(folder, device="cpu")
    assert type(session.pipeline) is kind
    return session


MASK = Image.new("L", (24, 16), 255)
KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "kontext": (FluxKontextPipeline, {}, {"_auto_resize": False, "max_area": 16 * 24}),
    # latents, those of the masked picture, and four mask values for each latent pixel
    "fill": (FluxFillPipeline, {"in_channels": 48, "out_channels": 16}, {"mask_image": MASK}),
    "inpaint": (FluxInpaintPipeline, {}, {"mask_image": MASK, "strength": 1.0}),
    "img2img": (FluxImg2ImgPipeline, {}, {"strength": 1.0}),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_picture_is_the_plain_pipelines(name: str, tmp_path: Path) -> None:
    kind, changes, more = KINDS[name]
    session = opened(kind, tmp_path, **changes)
    options = {**SIZE, **more, "image": picture()}
    plain = session.pipeline(prompt="a red house", generator=torch.Generator().manual_seed(5), **options).images[0]
    maps = session.generate("a red house", ["house", "sky"], seed=5, **options)
    assert np.array_equal(np.asarray(plain), np.asarray(maps.image))
    assert maps.scores.shape == (2, 4, 6)
    assert torch.isfinite(maps.scores).all()
    assert len(maps.references) == (1 if name == "kontext" else 0)


def test_the_reference_picture_has_maps_of_its_own(tmp_path: Path) -> None:
    session = opened(FluxKontextPipeline, tmp_path / "model")
    options = {**SIZE, **KINDS["kontext"][2], "seed": 3}
    maps = session.generate("a red house", ["house", "sky"], image=picture(), **options)
    (reference,) = maps.references
    assert reference.scores.shape == (2, 4, 6)
    torch.testing.assert_close(reference.scores.sum(0), torch.ones(4, 6))
    assert reference.image.size == picture().size
    other = session.generate(
        "a red house", ["house", "sky"], image=picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT), **options
    )
    assert (reference.scores - other.references[0].scores).abs().max() > 0.01
    maps.save(tmp_path / "out")
    assert (tmp_path / "out" / "reference-1-overlay.png").exists()
    assert np.array_equal(np.load(tmp_path / "out" / "maps.npz")["reference_1"], reference.scores.numpy())


def test_each_of_two_reference_pictures_has_the_scores_of_its_own_rows() -> None:
    session = session_of(flux2_klein_pipeline())
    shown = [picture().resize((64, 64)), picture().resize((64, 128)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    totals: list[torch.Tensor] = []
    whole = ScoreAccumulator.mean
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreAccumulator, "mean", lambda self: totals.append(whole(self)) or totals[-1])
        maps = session.generate("a red house", ["house", "sky"], image=shown, seed=3, num_inference_steps=1)
    first, second = maps.references
    parts = [torch.Size(r.scores.shape[1:]).numel() for r in (maps, first, second)]
    assert parts[2] == 2 * parts[1]
    for found, rows in zip((maps, first, second), totals[0][0].split(parts, dim=-1), strict=True):
        assert torch.equal(found.scores.flatten(1), rows)


def test_reference_rows_are_exact() -> None:
    """Scores of a reference image are those of its own rows; the own text is reproduced over both images."""
    adapter = adapter_for(flux_transformer().double())
    call = {k: v.double() if v.is_floating_point() else v for k, v in FAMILIES["flux"].call(1, 4, 6).items()}
    other = call["img_ids"].clone()
    other[:, 0] = 1
    call["img_ids"] = torch.cat([call["img_ids"], other[:12]])
    call["hidden_states"] = torch.cat([call["hidden_states"], call["hidden_states"][:, :12]], dim=1)
    own = own_text(call)
    probe, stream = ConceptProbe(adapter, own, Recipe(layers=(0,), softmax=False)), []

    def both(block: Any, record: Any) -> None:
        probe(block, record)
        vectors = ConceptStream(adapter, own, Recipe(layers=(0,))).step(block, record)
        stream.append(vectors.out @ record.out.transpose(1, 2))

    run(adapter, call, both, last=0, outputs=frozenset((0,)), stop=False)
    assert probe.references == (TokenGrid(2, 6),)
    torch.testing.assert_close(probe.scores.mean()[..., 24:], stream[0][..., 24:].to(probe.scores.mean()))
