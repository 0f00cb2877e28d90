"""A small CLIP: pictures and captions, told apart by contrast alone.

    python training/train_clip.py --seconds 1500              # again with --resume after an interruption
    python training/train_clip.py --export zoo/clip

Captions are sentences, lists of what is there, and single phrases, some of them in the sentences in which the methods
ask a CLIP ("a photo of a red house."), so that those are no news to it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

import vision
from conceptlens.bench.datasets.scenes import NOUNS, Scene
from conceptlens.methods.templates import TEMPLATES
from mending import mention
from text import LENGTH, WORDS, build_clip_tokenizer

SENTENCES = (*TEMPLATES["ensemble"], "a clean origami {}.")
EXTRA = tuple(
    dict.fromkeys(word for text in SENTENCES for word in text.replace("{}", "").replace(".", "").split() if word)
)


def tokenizer() -> CLIPTokenizer:
    return build_clip_tokenizer(tuple(dict.fromkeys((*WORDS, *EXTRA))))


def build(vocabulary: CLIPTokenizer) -> CLIPModel:
    text = {
        "vocab_size": len(vocabulary),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": vocabulary.bos_token_id,
        "eos_token_id": vocabulary.eos_token_id,
        "pad_token_id": vocabulary.pad_token_id,
    }
    return CLIPModel(
        CLIPConfig(
            text_config=text,
            vision_config={**vision.TOWER, "hidden_act": "quick_gelu", "intermediate_size": 256},
            projection_dim=64,
        )
    )


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption; a third of the time a single object in one of `SENTENCES`."""
    if rng.random() < 0.33:
        item = scene.objects[rng.integers(len(scene.objects))]
        phrase = f"{item.colour} {item.noun}" if rng.random() < 0.5 else item.noun
        return str(rng.choice(SENTENCES)).format(phrase)
    return mention(scene, rng)


@torch.no_grad()
def check(model: CLIPModel, words: CLIPTokenizer, limit: int = 1000) -> dict[str, float]:
    """How often the noun nearest to an unseen picture is one of its objects."""
    scenes, pictures = vision.load_pictures("validation", limit)
    given = words([f"a photo of a {noun}." for noun in NOUNS], padding=True, return_tensors="pt")
    texts = F.normalize(model.get_text_features(**given).pooler_output, dim=-1)
    parts = pictures.split(100)
    images = torch.cat([model.get_image_features(vision.normalized(part)).pooler_output for part in parts])
    top = (images @ texts.T).argmax(-1).tolist()
    right = [NOUNS[number] in scene.concepts for number, scene in zip(top, scenes, strict=True)]
    alone = [r for r, scene in zip(right, scenes, strict=True) if len(scene.objects) == 1]
    return {"nearest noun shown": float(np.mean(right)), "single objects": float(np.mean(alone))}


def main() -> None:
    parser = vision.arguments(__doc__, name="clip", batch=96)
    args = parser.parse_args()
    words = tokenizer() if not args.export else CLIPTokenizer.from_pretrained(vision.RUN / "clip-tokenizer")
    torch.manual_seed(args.seed)
    model = build(words)
    if args.export:
        weights, step = vision.averaged(args.name)
        model.load_state_dict(weights)
        print(check(model.eval(), words))
        vision.export(model, args.export, step)
        words.save_pretrained(args.export)
        return
    kept = vision.RUN / "clip-tokenizer"  # a second one might number some tokens in another way
    if args.resume and kept.exists():
        words = CLIPTokenizer.from_pretrained(kept)
    else:
        words.save_pretrained(kept)
    scenes, pictures = vision.load_pictures("train", args.scenes)
    rng = np.random.default_rng(args.seed)

    def loss_of(step: int) -> tuple[Tensor, vision.Figures]:
        picked = torch.randint(len(pictures), (args.batch,))
        pixels = vision.jittered(vision.cropped(vision.normalized(pictures[picked]), (0.85, 1.0), 64), 0.2)
        texts = [caption(scenes[number], rng) for number in picked.tolist()]
        pad = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
        logits = model(pixel_values=pixels, **words(texts, **pad)).logits_per_image.float()
        target = torch.arange(args.batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, {"right": (logits.argmax(-1) == target).float().mean().item()}

    vision.train(model, args, loss_of)


if __name__ == "__main__":
    main()
