"""A small image classifier: the stand-in for the ImageNet model on which six rows of the paper's Table 1 were made.

    python training/train_classifier.py --seconds 900              # again with --resume after an interruption
    python training/train_classifier.py --export zoo/vit

Cross-entropy with the objects of a scene, each an equal share of the truth, as ImageNet's single labels are a share of
what its pictures show. No place, box or mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

import vision
from conceptlens.bench.datasets.scenes import NOUNS, Scene


def build() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            **vision.TOWER,
            intermediate_size=256,
            id2label=dict(enumerate(NOUNS)),
            label2id={noun: number for number, noun in enumerate(NOUNS)},
            attn_implementation="sdpa",
        )
    )


def truth(scenes: list[Scene]) -> Tensor:
    """(scene, noun): the share of each object, 1 in sum."""
    rows = torch.zeros(len(scenes), len(NOUNS))
    for row, scene in zip(rows, scenes, strict=True):
        for item in scene.objects:
            row[NOUNS.index(item.noun)] = 1 / len(scene.objects)
    return rows


@torch.no_grad()
def check(model: ViTForImageClassification, limit: int = 1000) -> dict[str, float]:
    """How often the top class is an object of an unseen scene, and the only one where there is but one."""
    scenes, pictures = vision.load_pictures("validation", limit)
    top = torch.cat([model(vision.normalized(part)).logits.argmax(-1) for part in pictures.split(100)])
    shares = truth(scenes)
    right = shares[torch.arange(limit), top] > 0
    alone = shares.amax(1) == 1
    return {"top class shown": right.float().mean().item(), "single objects": right[alone].float().mean().item()}


def main() -> None:
    parser = vision.arguments(__doc__, name="vit", batch=48)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = build()
    if args.export:
        weights, step = vision.averaged(args.name)
        model.load_state_dict(weights)
        print(check(model.eval()))
        vision.export(model, args.export, step)
        return
    scenes, pictures = vision.load_pictures("train", args.scenes)
    labels = truth(scenes)

    def loss_of(step: int) -> tuple[Tensor, vision.Figures]:
        picked = torch.randint(len(pictures), (args.batch,))
        pixels = vision.jittered(vision.cropped(vision.normalized(pictures[picked]), (0.8, 1.0), 64), 0.2)
        logits = model(pixels).logits.float()
        right = labels[picked, :][torch.arange(args.batch), logits.argmax(-1)] > 0
        return F.cross_entropy(logits, labels[picked]), {"right": right.float().mean().item()}

    vision.train(model, args, loss_of)


if __name__ == "__main__":
    main()
