"""Vision transformers that learn from themselves: DINO, iBOT, DINOv2 and DINOv2 with registers, at a small size.

    python training/train_selfdistilled.py --kind dino --seconds 1500         # again with --resume
    python training/train_selfdistilled.py --kind dino --export zoo/dino

A student sees crops of a picture, large and small, and says what its own running average, the teacher, says of the
large ones (Caron et al., arXiv 2104.14294). iBOT (arXiv 2111.07832) hides patches of the student's large crops and asks
for the teacher's patches with the same head; DINOv2 (arXiv 2304.07193) asks with a separate head and spreads the class
tokens apart (KoLeo); registers (arXiv 2309.16588) are four tokens more. No label and no text is used.
"""

from __future__ import annotations

import copy

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

KINDS = ("dino", "ibot", "dinov2", "dinov2-reg")
PROTOTYPES = 1024
STUDENT_HEAT, TEACHER_HEAT = 0.1, 0.05
LARGE, SMALL = (0.4, 1.0), (0.1, 0.4)


class Head(nn.Module):
    """Tokens to logits over prototypes of unit length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, 64))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.body(tokens), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Learner(nn.Module):
    """Student or teacher: a backbone with its heads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.backbone = build(kind)
        self.head = Head(vision.TOWER["hidden_size"])
        self.patch_head = Head(vision.TOWER["hidden_size"]) if kind.startswith("dinov2") else self.head

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
        return ViTModel(ViTConfig(**vision.TOWER, intermediate_size=256), add_pooling_layer=False)
    if kind == "ibot":
        return ViTModel(ViTConfig(**vision.TOWER, intermediate_size=256), add_pooling_layer=False, use_mask_token=True)
    if kind == "dinov2":
        return Dinov2Model(Dinov2Config(**vision.TOWER, mlp_ratio=2))
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**vision.TOWER, mlp_ratio=2, num_register_tokens=4))


class Centre(nn.Module):
    """The running mean of a teacher's logits, which is taken from them so that no prototype wins them all."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(PROTOTYPES))

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities of the teacher, (..., prototype)."""
        logits = logits.float()
        chances = ((logits - self.mean) / TEACHER_HEAT).softmax(-1)
        self.mean.lerp_(logits.flatten(0, -2).mean(0), 0.1)
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
    return torch.cat([vision.jittered(vision.cropped(pictures, area, side), 0.4) for _ in range(count)])


class Task:
    """One step's loss, with the teacher and what it needs to be asked."""

    def __init__(self, student: Learner, teacher: Learner, pictures: Tensor, batch: int) -> None:
        self.student, self.teacher, self._pictures, self._batch = student, teacher, pictures, batch
        self._centre, self._patch_centre = Centre(), Centre()

    def __call__(self, step: int) -> tuple[Tensor, vision.Figures]:
        student, teacher = self.student, self.teacher
        picked = vision.normalized(self._pictures[torch.randint(len(self._pictures), (self._batch,))])
        large, small = views(picked, LARGE, 64, 2), views(picked, SMALL, 32, 4)
        hidden = hide(len(large), 16) if student.masks else None
        with torch.no_grad():
            taught, taught_patches = teacher(large)
            target = self._centre(teacher.head(taught))
        seen, patches = student(large, hidden)
        beside, _ = student(small)
        said, whole = student.head(torch.cat([seen, beside])), len(picked)
        losses = [
            cross_entropy(target[number * whole :][:whole], said[other * whole :][:whole]).mean()
            for number in range(2)
            for other in range(6)
            if other != number
        ]
        loss = torch.stack(losses).mean()
        figures = {"class": loss.item(), "prototypes": target.mean(0).mul(-target.mean(0).log()).sum().exp().item()}
        if hidden is not None:
            with torch.no_grad():
                answer = self._patch_centre(teacher.patch_head(taught_patches[hidden]))
            patch = cross_entropy(answer, student.patch_head(patches[hidden])).mean()
            loss, figures["patch"] = loss + patch, patch.item()
        if student.kind.startswith("dinov2"):
            loss = loss + 0.1 * koleo(seen[:whole])
        return loss, figures


def main() -> None:
    parser = vision.arguments(__doc__, batch=20, rate=8e-4)
    parser.add_argument("--kind", choices=KINDS, default="dino")
    args = parser.parse_args()
    args.name = args.name or args.kind
    torch.manual_seed(args.seed)
    student = Learner(args.kind)
    teacher = copy.deepcopy(student).requires_grad_(False)
    if args.export:
        weights, step = vision.averaged(args.name)
        teacher.load_state_dict(weights)
        vision.export(teacher.backbone, args.export, step)
        return
    _, pictures = vision.load_pictures("train", args.scenes)
    task = Task(student, teacher, pictures, args.batch)
    vision.train(student, args, task, muon=False, decay=lambda done: 0.996 + 0.004 * done, average=teacher)


if __name__ == "__main__":
    main()
