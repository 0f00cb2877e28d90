"""Vision transformers that learn from themselves: DINO, iBOT, DINOv2 and DINOv2 with registers, at a small size.

    python training/train_selfdistilled.py --kind dino --seconds 1500         # again with --resume
    python training/train_selfdistilled.py --kind dino --export zoo/dino

A student sees crops of a picture, large and small, and says what its own running average, the teacher, says of the
large ones (Caron et al., arXiv 2104.14294). iBOT (arXiv 2111.07832) hides patches of the student's large crops and asks
for the teacher's patches with the same head; DINOv2 (arXiv 2304.07193) asks with a separate head and spreads the class
tokens apart (KoLeo); registers (arXiv 2309.16588) are four tokens more. No label and no text is used.

As ImageNet's, the pictures show one object each, and are cut around it, as photographers do: where ground and sky take
most of a picture, crops have those in common, and a class token learns to look there. All four have DINOv2's Sinkhorn
rounds in place of a centre, which a batch as small as these needs.
"""

from __future__ import annotations

import argparse
import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

import vision
from conceptlens.bench.datasets.scenes import NOUNS, SPLITS
from conceptlens.bench.datasets.single_scenes import lone_object
from conceptlens.bench.metrics import roc_auc

KINDS = ("dino", "ibot", "dinov2", "dinov2-reg")
PROTOTYPES = 128
STUDENT_HEAT, TEACHER_HEAT = 0.1, 0.05
LARGE, SMALL = (0.4, 1.0), (0.1, 0.4)
"""Shares of the picture that crops cover."""
SMALL_CROPS = 4
TOWER = vision.TOWER | {"hidden_size": 96}


class Head(nn.Module):
    """Tokens to logits over prototypes of unit length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 64))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.body(tokens), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Learner(nn.Module):
    """Student or teacher: a backbone with its heads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.backbone = build(kind)
        self.head = Head(TOWER["hidden_size"])
        self.patch_head = Head(TOWER["hidden_size"]) if kind.startswith("dinov2") else self.head

    @property
    def masks(self) -> bool:
        """Whether patches are hidden from the student."""
        return self.kind != "dino"

    def forward(self, pixels: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The class token, (batch, width), and the patches, (batch, patch, width)."""
        resized = {} if self.kind.startswith("dinov2") else {"interpolate_pos_encoding": True}
        marked = {} if hidden is None else {"bool_masked_pos": hidden}
        states = self.backbone(pixels, **resized, **marked).last_hidden_state
        prefix = 1 + getattr(self.backbone.config, "num_register_tokens", 0)
        return states[:, 0], states[:, prefix:]


def build(kind: str) -> PreTrainedModel:
    if kind == "dino":
        return ViTModel(ViTConfig(**TOWER, intermediate_size=192), add_pooling_layer=False)
    if kind == "ibot":
        return ViTModel(ViTConfig(**TOWER, intermediate_size=192), add_pooling_layer=False, use_mask_token=True)
    if kind == "dinov2":
        return Dinov2Model(Dinov2Config(**TOWER, mlp_ratio=2))
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TOWER, mlp_ratio=2, num_register_tokens=4))


def sinkhorn(logits: Tensor) -> Tensor:
    """A teacher's probabilities, (token, prototype): every prototype is used as often as the others (three rounds)."""
    chances = (logits.float() / TEACHER_HEAT).exp()
    for _ in range(3):
        chances = chances / chances.sum(0, keepdim=True)
        chances = chances / chances.sum(1, keepdim=True)
    return chances


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """(..., prototype) each, probabilities and logits; one value per token."""
    return -(teacher * (student.float() / STUDENT_HEAT).log_softmax(-1)).sum(-1)


def hide(batch: int, side: int) -> Tensor:
    """A random rectangle of 20% to 60% of the patches of every other picture: (batch, side * side) bool."""
    hidden = torch.zeros(batch, side, side, dtype=torch.bool)
    for row in range(0, batch, 2):
        share, aspect = torch.empty(1).uniform_(0.2, 0.6).item(), torch.empty(1).uniform_(0.6, 1.6).item()
        height, width = (min(side, max(1, round(side * (share * a) ** 0.5))) for a in (aspect, 1 / aspect))
        top, left = (int(torch.randint(side - extent + 1, (1,))) for extent in (height, width))
        hidden[row, top : top + height, left : left + width] = True
    return hidden.flatten(1)


def koleo(tokens: Tensor) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest neighbour: small where tokens are spread out."""
    unit = F.normalize(tokens.float(), dim=-1)
    nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(-1)
    return -(unit - unit[nearest]).norm(dim=-1).add(1e-4).log().mean()


def views(pictures: Tensor, area: tuple[float, float], side: int, count: int) -> Tensor:
    """`count` crops of each picture, one after the other: (count * batch, 3, side, side)."""
    return torch.cat([vision.tinted(vision.jittered(vision.cropped(pictures, area, side), 0.4)) for _ in range(count)])


class Task:
    """One step's loss, with the teacher and what it needs to be asked."""

    def __init__(self, student: Learner, teacher: Learner, pictures: Tensor, args: argparse.Namespace) -> None:
        self.student, self.teacher, self._pictures, self._args = student, teacher, pictures, args

    def __call__(self, step: int) -> tuple[Tensor, vision.Figures]:
        student, teacher, batch, side = self.student, self.teacher, self._args.batch, self._args.side
        picked = vision.normalized(self._pictures[torch.randint(len(self._pictures), (batch,))])
        large, small = views(picked, LARGE, side, 2), views(picked, SMALL, side // 2, SMALL_CROPS)
        hidden = hide(len(large), side // TOWER["patch_size"]) if student.masks else None
        with torch.no_grad():
            taught, taught_patches = teacher(large)
            target = sinkhorn(teacher.head(taught)).unflatten(0, (2, batch))
        seen, patches = student(large, hidden)
        beside, _ = student(small)
        said = student.head(torch.cat([seen, beside])).unflatten(0, (2 + SMALL_CROPS, batch))
        pairs = [(one, other) for one in range(2) for other in range(len(said)) if other != one]
        loss = torch.stack([cross_entropy(target[one], said[other]).mean() for one, other in pairs]).mean()
        figures = {"class": loss.item()}
        if hidden is not None:
            with torch.no_grad():
                answer = sinkhorn(teacher.patch_head(taught_patches[hidden]))
            patch = cross_entropy(answer, student.patch_head(patches[hidden])).mean()
            loss, figures["patch"] = loss + patch, patch.item()
        if student.kind.startswith("dinov2"):
            loss = loss + 0.1 * koleo(seen[:batch])
        return loss, figures


@torch.no_grad()
def check(teacher: Learner, limit: int = 500) -> dict[str, float]:
    """How well a picture's nearest neighbours name its object, and how well the class token's attention finds it.

    The second is the ROC-AUC per patch of the mean over the heads of the last block: 0.5 is chance.
    """
    scenes, pictures = vision.load_pictures("validation", limit, lone_object)
    known, known_pictures = vision.load_pictures("train", 2 * limit, lone_object)
    tokens, known_tokens = (
        F.normalize(torch.cat([teacher(vision.normalized(part))[0] for part in pixels.split(100)]), dim=-1)
        for pixels in (pictures, known_pictures)
    )
    nouns, known_nouns = (
        torch.tensor([NOUNS.index(scene.objects[0].noun) for scene in drawn]) for drawn in (scenes, known)
    )
    votes = F.one_hot(known_nouns[(tokens @ known_tokens.T).topk(10).indices], len(NOUNS)).sum(1)
    return {"named by 10 neighbours": (votes.argmax(1) == nouns).float().mean().item(), "roc_auc": attended(teacher)}


@torch.no_grad()
def attended(teacher: Learner, limit: int = 100) -> float:
    backbone = teacher.backbone.eval()
    backbone.set_attn_implementation("eager")
    found = []
    for number in range(limit):
        scene = lone_object(SPLITS["validation"] + number)
        pixels = vision.normalized(torch.from_numpy(scene.image).permute(2, 0, 1)[None])
        row = backbone(pixels, output_attentions=True).attentions[-1][0, :, 0, -256:].mean(0)
        truth = F.avg_pool2d(torch.from_numpy(scene.labels == 0).float()[None], 4).flatten() > 0.5
        found.append(roc_auc(row.numpy(), truth.numpy()))
    return float(np.mean(found))


def main() -> None:
    parser = vision.arguments(__doc__, batch=48, scenes=8000)
    parser.add_argument("--kind", choices=KINDS, default="dino")
    parser.add_argument("--side", type=int, default=32, help="of large crops, in pixels; small ones have half of it")
    args = parser.parse_args()
    args.name = args.name or args.kind
    torch.manual_seed(args.seed)
    student = Learner(args.kind)
    teacher = copy.deepcopy(student).requires_grad_(False)
    if args.export:
        weights, step = vision.averaged(args.name)
        teacher.load_state_dict(weights)
        print(check(teacher))
        vision.export(teacher.backbone, args.export, step)
        return
    pictures = vision.portraits(*vision.load_pictures("train", args.scenes, lone_object))
    task = Task(student, teacher, pictures, args)
    vision.train(student, args, task, decay=lambda done: 1 - 0.005 * (1 + math.cos(math.pi * done)), average=teacher)


if __name__ == "__main__":
    main()
