"""Tiny random pipelines of the real classes whose text is only keys and values of cross attention."""

# pyright: reportArgumentType=false
# Libraries annotate tuples of any length as tuples of one, and tokenizers as one class.

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    Cosmos2TextToImagePipeline,
    CosmosTransformer3DModel,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Kandinsky5T2IPipeline,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import BertConfig, BertModel, BertTokenizer

from specimens.random_models import randomize
from tiny_cross_joint import nucleus_pipeline, prx_pipeline
from tiny_cross_parts import FLOW, HEAD, HEADS, TEXT, gemma, louder, t5
from tiny_cross_video import (
    allegro_pipeline,
    any_flow_far_pipeline,
    any_flow_pipeline,
    helios_pipeline,
    kandinsky5_pipeline,
    kandinsky5_transformer,
    kandinsky6_pipeline,
    kandinsky_text,
    latte_pipeline,
    ltx2_pipeline,
    ltx_pipeline,
    sana_video_pipeline,
    sky_reels_pipeline,
    wan_pipeline,
    wan_vace_pipeline,
    wan_vae,
)
from tiny_models import quiet, tiny_vae, tokenizers

SIDE = 64
"""Side in pixels of what the tiny pipelines paint and read."""


def pixart_transformer(**changes: Any) -> PixArtTransformer2DModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD,
        "num_layers": 3,
        "in_channels": 4,
    }
    text: dict[str, Any] = {"cross_attention_dim": HEADS * HEAD, "caption_channels": TEXT}
    return louder(PixArtTransformer2DModel(**{**shape, **text, "out_channels": 8, "sample_size": 32, **changes}))


def pixart_pipeline(**changes: Any) -> PixArtSigmaPipeline:
    scheduler = DPMSolverMultistepScheduler()
    return quiet(PixArtSigmaPipeline(tokenizers()[1], t5(), tiny_vae((8, 8)), pixart_transformer(**changes), scheduler))


def pixart_alpha_pipeline() -> PixArtAlphaPipeline:
    """With the resolution and the aspect ratio as further conditions, as the one of 1024 pixels has them."""
    transformer = pixart_transformer(sample_size=128, attention_head_dim=12, use_additional_conditions=True)
    return quiet(PixArtAlphaPipeline(tokenizers()[1], t5(), tiny_vae(), transformer, DPMSolverMultistepScheduler()))


def sana_pipeline() -> SanaPipeline:
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=6,
        num_layers=3,
        num_cross_attention_heads=HEADS,
        cross_attention_head_dim=HEAD,
        cross_attention_dim=24,
        caption_channels=TEXT,
        sample_size=32,
        qk_norm="rms_norm_across_heads",
        timestep_scale=0.5,
    )
    shape: dict[str, Any] = {"block_out_channels": (8, 8), "layers_per_block": (1, 1), "qkv_multiscales": ((), (5,))}
    shape |= {"block_types": ("ResBlock", "EfficientViTBlock")}
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        scaling_factor=0.4,
        decoder_norm_types="rms_norm",
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in shape.items()},
    ).eval()
    return quiet(SanaPipeline(*gemma(), vae, louder(transformer), DPMSolverMultistepScheduler(**FLOW)))


def hunyuan_dit_pipeline() -> HunyuanDiTPipeline:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "house", "boat", "tree", "sun", "sky"]
    bert_words = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=77)
    torch.manual_seed(3)
    bert = BertConfig(
        vocab_size=len(words), hidden_size=TEXT, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    torch.manual_seed(0)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=16,
        hidden_size=32,
        num_layers=4,
        cross_attention_dim=TEXT,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
    )
    pipeline = HunyuanDiTPipeline(
        vae=tiny_vae((8, 8, 8, 8)),
        text_encoder=randomize(BertModel(bert)),
        tokenizer=bert_words,
        transformer=louder(transformer),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5(16),
        tokenizer_2=tokenizers()[1],
    )
    return quiet(pipeline)


def lumina_next_pipeline() -> LuminaPipeline:
    torch.manual_seed(0)
    transformer = LuminaNextDiT2DModel(
        sample_size=16,
        hidden_size=HEADS * 2 * HEAD,
        num_layers=3,
        num_attention_heads=HEADS * 2,
        num_kv_heads=HEADS,
        multiple_of=8,
        cross_attention_dim=TEXT,
    )
    words, text = gemma()
    vae = tiny_vae((8, 8, 8, 8))
    return quiet(LuminaPipeline(louder(transformer), FlowMatchEulerDiscreteScheduler(), vae, text, words))


def kandinsky5_image_pipeline() -> Kandinsky5T2IPipeline:
    made = Kandinsky5T2IPipeline(
        transformer=kandinsky5_transformer(),
        vae=tiny_vae((8, 8, 8, 8)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **kandinsky_text(),
    )
    made.resolutions = [(64, 96)]  # instead of some around a million pixels
    return quiet(made)


class NoGuard:
    """In place of the package cosmos_guardrail."""

    def to(self, device: Any) -> NoGuard:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True


def cosmos_pipeline() -> Cosmos2TextToImagePipeline:
    torch.manual_seed(0)
    transformer = CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=HEADS,
        attention_head_dim=18,
        num_layers=3,
        text_embed_dim=TEXT,
        adaln_lora_dim=4,
        max_size=(4, 40, 40),
        extra_pos_embed_type=None,
    )
    words: Any = tokenizers()[1]
    guard: Any = NoGuard()
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return quiet(Cosmos2TextToImagePipeline(t5(), words, louder(transformer), wan_vae(), scheduler, guard))


PIPELINES: dict[str, Callable[[], Any]] = {
    "pixart": pixart_pipeline,
    "pixart-alpha": pixart_alpha_pipeline,
    "sana": sana_pipeline,
    "hunyuan-dit": hunyuan_dit_pipeline,
    "wan": wan_pipeline,
    "ltx": ltx_pipeline,
    "latte": latte_pipeline,
    "sana-video": sana_video_pipeline,
    "sky-reels": sky_reels_pipeline,
    "cosmos": cosmos_pipeline,
    "lumina-next": lumina_next_pipeline,
    "kandinsky-5": kandinsky5_pipeline,
    "kandinsky-5-image": kandinsky5_image_pipeline,
    "kandinsky-6": kandinsky6_pipeline,
    "allegro": allegro_pipeline,
    "wan-vace": wan_vace_pipeline,
    "any-flow": any_flow_pipeline,
    "any-flow-far": any_flow_far_pipeline,
    "helios": helios_pipeline,
    "ltx-2": ltx2_pipeline,
    "prx": prx_pipeline,
    "nucleus": nucleus_pipeline,
}
"""By family."""


def saved(name: str, folder: Path, side: int = SIDE) -> Path:
    """An ordinary folder of a tiny pipeline that paints and reads squares of `side` pixels."""
    PIPELINES[name]().save_pretrained(folder)
    (folder / "conceptlens.json").write_text(json.dumps({"generate": {"height": side, "width": side}}))
    return folder


METHODS_TINY_CROSS: dict[str, Callable[[Path], tuple[str, dict[str, Any]]]] = {
    "concept-cross-attention": lambda folder: (str(saved("pixart", folder / "pixart")), {"noise": 0.4}),
}
"""By the name of a method: writes a tiny model into a folder and gives the arguments of its `load`."""
