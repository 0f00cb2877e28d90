"""What the trainings of vision models see, and how a teacher's answers are spread."""

import itertools

import numpy as np
import torch

from conceptlens.bench.datasets.scenes import NOUNS
from conceptlens.bench.datasets.single_scenes import lone_object
from train_selfdistilled import sinkhorn
from vision import portraits, tinted


def test_portraits_show_the_object_whole() -> None:
    scenes = [lone_object(seed) for seed in range(2 * len(NOUNS))]
    # Pictures that say for each pixel whether the object is there.
    masks = torch.from_numpy(np.stack([scene.labels == 0 for scene in scenes]))[:, None].expand(-1, 3, -1, -1)
    cut = portraits(scenes, masks.to(torch.uint8))
    assert cut.shape == (len(scenes), 3, 40, 40)
    kept = cut.flatten(1).sum(1) / masks.flatten(1).sum(1)
    assert kept.min() > 0.8, kept
    assert kept.mean() > 0.95, kept
    shares = cut[:, 0].float().mean((1, 2)) / masks[:, 0].float().mean((1, 2))
    assert shares.min() > 2, "the object takes more of the picture than before"


def test_tinted_keeps_brightness_and_turns_colours() -> None:
    torch.manual_seed(0)
    pixels = torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1).expand(64, 3, 2, 2)
    other = tinted(pixels)
    weights = torch.tensor([0.299, 0.587, 0.114])
    before, after = (torch.einsum("c,nchw->n", weights, p) for p in (pixels, other))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    hues = other[:, :, 0, 0]
    grey = (hues.amax(1) - hues.amin(1)) < 1e-4
    assert 4 <= grey.sum() <= 24, "about one in five"
    coloured = hues[~grey]
    assert all((a - b).abs().max() > 1e-4 for a, b in itertools.pairwise(coloured))


def test_sinkhorn_uses_every_prototype() -> None:
    torch.manual_seed(0)
    logits = 0.1 * torch.randn(64, 8) + torch.tensor([1.0, *[0.0] * 7])  # one prototype that would win all
    chances = sinkhorn(logits)
    torch.testing.assert_close(chances.sum(1), torch.ones(64))
    used = chances.sum(0)
    assert used.max() < 1.5 * used.min(), used
    assert (logits / 0.05).softmax(1).sum(0)[0] > 63
