"""The extractor: the maps of a session, inside whatever surrounds a training loop."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.bench.datasets.scenes import make_scene
from conceptlens.families import adapter_for
from conceptlens.features import features
from conceptlens.readers.loading import Defaults, LoadedModel
from conceptlens.readers.text_streams import reader_of
from conceptlens.session import Session
from hooks import hooks_left
from tiny_models import Family, flux_pipeline
from tiny_reentry import bria_pipeline

WORDS = ("house", "tree", "sky")
pytestmark = pytest.mark.filterwarnings("ignore:.*CPU autocast", "ignore:Mismatch dtype between input and weight")


def scenes(count: int = 2) -> Tensor:
    pixels = [torch.from_numpy(make_scene(number).image.copy()) for number in range(count)]
    return torch.stack(pixels).movedim(-1, 1) / 255


def session_of(pipeline: Any) -> Session:
    adapter = adapter_for(pipeline.transformer)
    side = adapter.side_multiple(pipeline)
    defaults = Defaults(generate={"height": 4 * side, "width": 6 * side, "max_sequence_length": 64})
    return Session(reader_of(LoadedModel(pipeline, adapter, "tiny", defaults)))


@pytest.fixture(scope="module")
def embedded() -> Session:
    """One of its own, since an extractor freezes the weights."""
    return cl.load(device="cpu")


@pytest.fixture
def extractor() -> cl.Extractor:
    return cl.Extractor(session_of(flux_pipeline()), seed=3)


def test_it_gives_what_a_session_gives(family: Family) -> None:
    session = session_of(family.pipeline())
    if session.adapter.one_picture:
        with pytest.raises(cl.ModelError, match="takes one picture at a time. Use session.read"):
            cl.Extractor(session)
        return
    side = session.adapter.side_multiple(session.pipeline)
    images = torch.rand(2, 3, 4 * side, 6 * side)
    options: dict[str, Any] = {"samples": 2, "noise": 0.3}
    extractor = cl.Extractor(session, seed=3, prompt="a red house", **options)
    records = session.read(images, seed=3, prompt="a red house", **options)
    wanted = torch.stack([maps.scores for maps in session.probe(records, WORDS)])
    torch.testing.assert_close(extractor(images, WORDS), wanted, rtol=1e-4, atol=1e-5)
    dense = extractor.features(images)
    vectors = session.reader.vectors(records[1], WORDS, records[1].recipe)
    for layer, (_, patches) in vectors.items():
        torch.testing.assert_close(dense.outputs[layer][1].flatten(0, 1), patches, rtol=1e-3, atol=1e-4)
        assert dense.states[layer].shape[:3] == (2, 4, 6)
    assert hooks_left(session) == []


def test_states_are_normalised_and_modulated(embedded: Session) -> None:
    """By the block's own `norm1`, whose first output they are."""
    extractor, seen = cl.Extractor(embedded), []
    block = embedded.pipeline.transformer.transformer_blocks[2]
    handle = block.norm1.register_forward_hook(lambda module, given, made: seen.append(made[0]))
    states = extractor.features(scenes()).states
    handle.remove()
    assert torch.equal(states[2].flatten(1, 2), seen[0])


def test_the_embedded_model(embedded: Session) -> None:
    images, extractor = scenes(), cl.Extractor(embedded, seed=5)
    maps, dense = extractor(images, WORDS), extractor.features(images)
    for number, record in enumerate(embedded.read(images, seed=5)):
        torch.testing.assert_close(maps[number], embedded.probe(record, WORDS).scores, rtol=0, atol=1e-5)
        told = features(embedded, record, WORDS)
        for layer, patches in zip(told.layers, torch.from_numpy(told.patch_vectors), strict=True):
            torch.testing.assert_close(dense.outputs[layer][number], patches, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_pictures_and_no_weight(extractor: cl.Extractor) -> None:
    """They are those of the maps: a small step along them changes the score by as much."""
    images = scenes().requires_grad_()
    score = extractor(images, WORDS)[:, 0].sum()
    score.backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in extractor.parameters())
    step = 1e-3 * images.grad / images.grad.norm()
    ahead, behind = (extractor(images.detach() + sign * step, WORDS)[:, 0].sum() for sign in (1, -1))
    assert float(ahead - behind) == pytest.approx(2e-3 * float(images.grad.norm()), rel=0.05)


def test_inference_mode_and_autocast(extractor: cl.Extractor) -> None:
    images = scenes()
    with torch.inference_mode():
        quick = extractor(images, WORDS)
    wanted = extractor(images, WORDS)
    assert torch.equal(quick, wanted)
    extractor(images.clone().requires_grad_(), WORDS).sum().backward()  # nothing of the first call is in the way
    with torch.autocast("cpu", torch.bfloat16):
        half = extractor(images, WORDS)
    assert 0 < float((half.float() - wanted).abs().max()) < 0.05


class Judge(nn.Module):
    """A small head on maps."""

    def __init__(self, extractor: cl.Extractor) -> None:
        super().__init__()
        self.extractor, self.head = extractor, nn.Conv2d(len(WORDS), 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.extractor(images, WORDS))


def test_under_a_compiler(extractor: cl.Extractor) -> None:
    judge, images = Judge(extractor), scenes()
    wanted = judge(images)
    torch.testing.assert_close(torch.compile(judge, backend="eager")(images), wanted, rtol=0, atol=1e-6)


def test_it_stays_frozen_and_in_evaluation(extractor: cl.Extractor) -> None:
    judge = Judge(extractor).train()
    assert not any(part.training for part in extractor.modules())
    assert [name for name, weight in judge.named_parameters() if weight.requires_grad] == ["head.weight", "head.bias"]


def test_nothing_but_tensors_after_the_first_call(extractor: cl.Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    images = scenes()
    extractor(images, WORDS)

    def refuse(*given: Any, **options: Any) -> None:
        raise AssertionError("no tensor operation")

    for owner, name in ((PIL.Image, "fromarray"), (Tensor, "numpy"), (Tensor, "cpu"), (torch, "randn")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(type(extractor.parts["text_encoder_2"]), "forward", refuse)
    assert extractor(images, WORDS).isfinite().all()


@pytest.mark.parametrize(
    ("images", "words", "says"),
    [
        (torch.ones(0, 3, 64, 64), WORDS, r"got a Tensor of shape \(0, 3, 64, 64\)"),
        (torch.ones(1, 3, 64, 64), ("house",), "'house' alone would win everywhere"),
        (torch.ones(1, 3, 64, 64), (), "no concepts"),
    ],
)
def test_what_cannot_be_extracted(extractor: cl.Extractor, images: Tensor, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(cl.ConceptlensError, match=says):
        extractor(images, words)


def test_models_and_settings_that_it_does_not_take() -> None:
    with pytest.raises(cl.ModelError, match="cannot give vectors of concepts"):
        cl.Extractor(session_of(bria_pipeline()))
    with pytest.raises(cl.RecipeError, match="branch='negative' is for generate"):
        cl.Extractor(session_of(flux_pipeline()), branch="negative")


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    options = {"rank": rank, "world_size": 2, "timeout": timedelta(seconds=120)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", **options)
    torch.manual_seed(0)
    judge = nn.parallel.DistributedDataParallel(Judge(cl.Extractor(session_of(flux_pipeline()))))
    judge(scenes()[rank : rank + 1]).square().mean().backward()
    torch.save([weight.grad for weight in judge.module.head.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_the_gradients_of_a_head(tmp_path: Path) -> None:
    """Of both pictures, one in each process; as one process gets them of both."""
    torch.multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    judge = Judge(cl.Extractor(session_of(flux_pipeline())))
    judge(scenes()).square().mean().backward()
    for rank in range(2):
        for grad, weight in zip(torch.load(tmp_path / f"{rank}.pt"), judge.head.parameters(), strict=True):
            torch.testing.assert_close(grad, weight.grad, rtol=1e-4, atol=1e-6)
