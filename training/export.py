"""The checkpoint of `train_dit.py`, `train_neutral.py` or `train_films.py` as an ordinary folder, with its defaults.

    python training/export.py --folder src/conceptlens/assets/demo
    python training/export.py --folder zoo/neutral --checkpoint training/runs/neutral.pt \\
        --vae src/conceptlens/assets/demo/vae
    python training/export.py --folder zoo/film --checkpoint training/runs/film.pt --vae src/conceptlens/assets/demo/vae

The averaged weights are stored in float16: half the size, and the rounding is far below the noise of training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline
from transformers import T5Tokenizer

from conceptlens.bench.datasets.scenes import GROUNDS
from film_model import GENERATE as GENERATE_FILMS
from film_model import FilmModel
from film_model import build_pipeline as film_pipeline
from picture_model import RUN, PictureModel
from sd3_model import SD3Model
from sd3_model import build_pipeline as sd3_pipeline
from text import LENGTH

Model = PictureModel | SD3Model | FilmModel
GENERATE = {
    "height": 64,
    "width": 64,
    "num_inference_steps": 28,
    "max_sequence_length": LENGTH,
    "negative_prompt": "",
}


def known_words(tokenizer: T5Tokenizer) -> list[str]:
    """The words that are one piece of a T5 tokenizer."""
    return [piece[1:] for piece, _ in tokenizer_pieces(tokenizer) if piece.startswith("▁") and piece[1:].isalpha()]


def with_capitals(model: PictureModel | SD3Model) -> None:
    """Lets "House" mean "house": a second piece for each word, with the same vector."""
    tokenizer, table = model.t5_tokenizer, model.t5.get_input_embeddings()
    words, pieces = known_words(tokenizer), tokenizer_pieces(tokenizer)
    rows = [tokenizer.convert_tokens_to_ids(f"▁{word}") for word in words]
    pieces += [(f"▁{word.capitalize()}", -2.0) for word in words]
    model.t5_tokenizer = type(tokenizer)(vocab=pieces, extra_ids=0, model_max_length=LENGTH)
    old = table.weight.data
    model.t5.resize_token_embeddings(len(pieces))
    model.t5.get_input_embeddings().weight.data = torch.cat([old, old[rows]])


def tokenizer_pieces(tokenizer: T5Tokenizer) -> list[tuple[str, float]]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return [(piece, score) for piece, score in state["model"]["vocab"]]


def open_model(checkpoint: Path, averaged: bool = True) -> Model:
    """The model of a checkpoint, without the heads of its training."""
    saved = torch.load(checkpoint, weights_only=False)
    args = saved["args"]
    if "films" in args:
        model: Model = FilmModel(args["heads"], args["double"], args["single"])
    elif args.get("family") == "sd3":
        model = SD3Model(args["heads"], args["double"])
    else:
        model = PictureModel(args["heads"], args["double"], args["single"])
    weights = saved["average" if averaged else "model"]
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


def build_pipeline(model: Model, vae: Path) -> DiffusionPipeline:
    if isinstance(model, FilmModel):
        return film_pipeline(model, vae)
    with_capitals(model)
    if isinstance(model, SD3Model):
        return sd3_pipeline(model, vae)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False),
        vae=AutoencoderKL.from_pretrained(vae),
        text_encoder=model.clip,
        tokenizer=model.clip_tokenizer,
        text_encoder_2=model.t5,
        tokenizer_2=model.t5_tokenizer,
        transformer=model.transformer,
    )
    for part in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer, pipeline.vae):
        part.eval()
    return pipeline


def forget_origin(config: Path) -> None:
    """Removes the path that diffusers notes for a part that was loaded from a folder."""
    told = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
    config.write_text(json.dumps(told, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=RUN / "dit.pt")
    parser.add_argument("--vae", type=Path, default=RUN / "vae")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--recipe", type=json.loads, default={}, help="fields of Recipe, as JSON")
    parser.add_argument("--guidance-scale", type=float, default=3.0, help="that pictures are painted with by default")
    parser.add_argument("--raw", action="store_true", help="the last weights in place of the averaged ones")
    args = parser.parse_args()
    model = open_model(args.checkpoint, not args.raw)
    vocabulary = known_words(model.t5_tokenizer)
    pipeline = build_pipeline(model, args.vae)
    pipeline.to(torch.float16).save_pretrained(args.folder)
    forget_origin(args.folder / "vae" / "config.json")
    guidance = "true_cfg_scale" if isinstance(pipeline, FluxPipeline) else "guidance_scale"
    generate = GENERATE_FILMS if isinstance(model, FilmModel) else {**GENERATE, guidance: args.guidance_scale}
    defaults = {
        "generate": generate,
        "recipe": args.recipe,
        "background": ["sky", *GROUNDS],
        "vocabulary": vocabulary,
    }
    (args.folder / "conceptlens.json").write_text(json.dumps(defaults, indent=2) + "\n")
    print(f"saved {args.folder}; {len(vocabulary)} words")


if __name__ == "__main__":
    main()
