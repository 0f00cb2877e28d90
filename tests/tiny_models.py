"""One small random builder per family: the real diffusers classes, seconds on a CPU."""

# pyright: reportArgumentType=false
# Libraries annotate tuples of any length as tuples of one, and tokenizers as one class.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLMochi,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogView4Pipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideoPipeline,
    MochiPipeline,
    QwenImagePipeline,
    StableDiffusion3Pipeline,
)
from diffusers.guiders import ClassifierFreeGuidance
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from conceptlens.readers.loading import demo_folder
from specimens.families import (
    POOLED,
    TEXT,
    aura_flow_call,
    aura_flow_transformer,
    chroma_call,
    chroma_transformer,
    cogvideox_5b_call,
    cogvideox_5b_transformer,
    cogvideox_call,
    cogvideox_transformer,
    cogview4_call,
    cogview4_transformer,
    flux2_call,
    flux2_dev_call,
    flux2_dev_transformer,
    flux2_transformer,
    flux_call,
    flux_transformer,
    hunyuan_video15_call,
    hunyuan_video15_transformer,
    hunyuan_video_call,
    hunyuan_video_transformer,
    mochi_call,
    mochi_transformer,
    qwen_call,
    qwen_transformer,
    sd3_call,
    sd3_medium_transformer,
    sd3_transformer,
    sd30_transformer,
)


@dataclass(frozen=True)
class Family:
    """A family under contract.

    `call` makes the arguments of one transformer call for a batch and a patch grid; `pipeline` a whole pipeline.
    `latents` is the shape of one image's latents on the 4 x 6 grid; `pack` makes of them what the pipeline takes.
    `guided` and `plain` are pipeline options with and without classifier-free guidance. `text` is the place of the text
    stream in what a block returns, `linears` are layers that a LoRA may change. A `video` call has two latent frames.
    `halved` are arguments that its pipeline gives in the transformer's dtype though others do not; `alone` says that
    the pipeline fails on a batch.
    """

    name: str
    transformer: Callable[[], Any]
    call: Callable[[int, int, int], dict[str, Any]]
    pipeline: Callable[[], Any]
    latents: tuple[int, ...] = (4, 8, 12)
    pack: Callable[[Any, Tensor], Tensor] = lambda pipeline, latents: latents
    guided: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 4.0})
    plain: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": 1.0})
    text: int = 0
    video: bool = False
    halved: frozenset[str] = frozenset()
    alone: bool = False
    linears: tuple[str, ...] = ("add_q_proj", "add_k_proj", "to_add_out", "to_k")


def tiny_vae(channels: tuple[int, ...] = (8, 8)) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.1,
    ).eval()


def clip_text(cls: Any, width: int, vocabulary: int, *, projection: int, layers: int = 2) -> Any:
    """A CLIP text encoder, seeded by its width."""
    torch.manual_seed(width)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return cls(config).eval()


def _clip(cls: Any, width: int, vocabulary: int) -> Any:
    projected = cls is CLIPTextModelWithProjection
    return clip_text(cls, width, vocabulary, projection=POOLED // 2 if projected else POOLED)


def _t5(vocabulary: int, width: int = TEXT) -> T5EncoderModel:
    torch.manual_seed(3)
    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0)
    ).eval()


def tokenizers(length: int = 77) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """The embedded model's own vocabularies, at the lengths that the big pipelines use."""
    clip = CLIPTokenizer.from_pretrained(demo_folder() / "tokenizer")
    clip.model_max_length = length
    return clip, T5Tokenizer.from_pretrained(demo_folder() / "tokenizer_2")


def flux_pipeline(**changes: Any) -> FluxPipeline:
    clip, t5 = tokenizers()
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(),
        text_encoder=_clip(CLIPTextModel, POOLED, len(clip)),
        tokenizer=clip,
        text_encoder_2=_t5(len(t5)),
        tokenizer_2=t5,
        transformer=flux_transformer(**changes),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd3_pipeline(transformer: Callable[[], Any] = sd3_medium_transformer) -> StableDiffusion3Pipeline:
    clip, t5 = tokenizers()
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(),
        text_encoder=_clip(CLIPTextModelWithProjection, 8, len(clip)),
        tokenizer=clip,
        text_encoder_2=_clip(CLIPTextModelWithProjection, 10, len(clip)),
        tokenizer_2=clip,
        text_encoder_3=_t5(len(t5)),
        tokenizer_3=t5,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words, punctuation and newlines, with the markers of a chat, as the big vocabularies have them."""
    words = "a red house boat on the sea sky under sun tree describe image user system assistant"
    marks = ["<|unk|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: number for number, word in enumerate([*marks, "\n", *words.split()])}
    model = Tokenizer(WordLevel(vocabulary, unk_token="<|unk|>"))
    model.pre_tokenizer = Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<|unk|>", pad_token="<|pad|>", extra_special_tokens=marks[2:]
    )
    made.chat_template = template
    return made


_LLM: dict[str, Any] = {
    "hidden_size": TEXT,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 10,
    "max_position_embeddings": 2048,
}


def chroma_pipeline() -> ChromaPipeline:
    t5 = tokenizers()[1]
    return quiet(ChromaPipeline(FlowMatchEulerDiscreteScheduler(), tiny_vae(), _t5(len(t5)), t5, chroma_transformer()))


def flux2_vae() -> AutoencoderKLFlux2:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 32,
    }
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    vae = AutoencoderKLFlux2(**shape, **blocks).eval()
    assert vae.bn.running_mean is not None
    assert vae.bn.running_var is not None
    vae.bn.running_mean.uniform_(-0.2, 0.2)
    vae.bn.running_var.uniform_(0.5, 1.5)
    return vae


def flux2_klein_pipeline() -> Flux2KleinPipeline:
    words = word_tokenizer()
    torch.manual_seed(3)
    text_encoder = Qwen3ForCausalLM(Qwen3Config(**{**_LLM, "num_hidden_layers": 27}, vocab_size=len(words))).eval()
    return quiet(
        Flux2KleinPipeline(FlowMatchEulerDiscreteScheduler(), flux2_vae(), text_encoder, words, flux2_transformer())
    )


def flux2_dev_pipeline() -> Flux2Pipeline:
    words = word_tokenizer()
    words.padding_side = "left"
    torch.manual_seed(3)
    text = MistralConfig(**{**_LLM, "num_hidden_layers": 30}, vocab_size=len(words))
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    text_encoder = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)).eval()
    return quiet(
        Flux2Pipeline(FlowMatchEulerDiscreteScheduler(), flux2_vae(), text_encoder, words, flux2_dev_transformer())
    )


def qwen_text() -> dict[str, Any]:
    """Qwen2.5-VL and its tokenizer, by component."""
    words = word_tokenizer()
    torch.manual_seed(3)
    rope = {"rope_type": "default", "mrope_section": [1, 2, 2], "rope_theta": 10000.0}
    text: dict[str, Any] = {**_LLM, "vocab_size": len(words), "rope_parameters": rope, "model_type": "qwen2_5_vl_text"}
    text["pad_token_id"] = text["bos_token_id"] = text["eos_token_id"] = 1
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": TEXT, "intermediate_size": 16}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()
    return {"text_encoder": encoder, "tokenizer": words}


def qwen_pipeline() -> QwenImagePipeline:
    text = qwen_text()
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 1.2, 0.8, 1.1],
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler()
    return quiet(QwenImagePipeline(scheduler=scheduler, vae=vae, transformer=qwen_transformer(), **text))


def aura_flow_pipeline() -> AuraFlowPipeline:
    t5 = tokenizers()[1]
    torch.manual_seed(3)
    config = UMT5Config(vocab_size=len(t5), d_model=TEXT, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0)
    text_encoder = UMT5EncoderModel(config).eval()
    return quiet(
        AuraFlowPipeline(t5, text_encoder, tiny_vae(), aura_flow_transformer(), FlowMatchEulerDiscreteScheduler())
    )


def cogview4_pipeline() -> CogView4Pipeline:
    t5 = tokenizers()[1]
    t5.padding_side = "left"
    torch.manual_seed(3)
    text_encoder = GlmModel(GlmConfig(**_LLM, vocab_size=len(t5), pad_token_id=0)).eval()
    vae = tiny_vae((8, 8, 8, 8))
    return quiet(CogView4Pipeline(t5, text_encoder, vae, cogview4_transformer(), FlowMatchEulerDiscreteScheduler()))


def cogvideox_pipeline(transformer: Callable[[], Any] = cogvideox_transformer) -> CogVideoXPipeline:
    t5 = tokenizers()[1]
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()
    scheduler = CogVideoXDDIMScheduler(
        timestep_spacing="trailing", rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    return quiet(CogVideoXPipeline(t5, _t5(len(t5)), vae, transformer(), scheduler))


def hunyuan_video_pipeline() -> HunyuanVideoPipeline:
    words, clip = word_tokenizer(), tokenizers()[0]
    torch.manual_seed(3)
    llama = LlamaModel(LlamaConfig(**{**_LLM, "num_hidden_layers": 3}, vocab_size=len(words), pad_token_id=1)).eval()
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2
    ).eval()
    return quiet(
        HunyuanVideoPipeline(
            text_encoder=llama,
            tokenizer=words,
            transformer=hunyuan_video_transformer(),
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            text_encoder_2=_clip(CLIPTextModel, POOLED, len(clip)),
            tokenizer_2=clip,
        )
    )


def hunyuan_video15_pipeline() -> HunyuanVideo15Pipeline:
    words, glyphs = word_tokenizer(), ByT5Tokenizer()
    torch.manual_seed(3)
    rope = {"rope_type": "default", "mrope_section": [1, 2, 2], "rope_theta": 10000.0}
    config = Qwen2_5_VLTextConfig(**{**_LLM, "num_hidden_layers": 3}, vocab_size=len(words), rope_parameters=rope)
    text_encoder = Qwen2_5_VLTextModel(config).eval()
    transformer = hunyuan_video15_transformer()
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    ).eval()
    scheduler, guider = FlowMatchEulerDiscreteScheduler(), ClassifierFreeGuidance(guidance_scale=4.0)
    made = HunyuanVideo15Pipeline(text_encoder, words, transformer, vae, scheduler, _t5(len(glyphs)), glyphs, guider)
    made.tokenizer_max_length, made.tokenizer_2_max_length, made.vision_num_semantic_tokens = 120, 16, 9
    made.prompt_template_encode_start_idx = 40
    return quiet(made)


def mochi_pipeline() -> MochiPipeline:
    t5 = tokenizers()[1]
    torch.manual_seed(0)
    channels = (32, 32, 32, 32)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels, layers_per_block=(1, 1, 1, 1, 1)
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return quiet(MochiPipeline(scheduler, vae, _t5(len(t5), 24), t5, mochi_transformer()))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def packed(pipeline: Any, latents: Tensor) -> Tensor:
    return pipeline._pack_latents(latents, *latents.shape)


TRUE_CFG: dict[str, Any] = {"guided": {"true_cfg_scale": 4.0, "negative_prompt": "a boat"}, "plain": {}}
NO_CFG: dict[str, Any] = {"guided": {"guidance_scale": 4.0}, "plain": {"guidance_scale": 4.0}}
SHARED = ("to_q", "to_k", "to_v", "to_out.0")
COGVIDEO: dict[str, Any] = {
    "text": 1,
    "linears": SHARED,
    "video": True,
    "pack": lambda pipeline, latents: latents[:, None],
}
HUNYUAN: dict[str, Any] = {"text": 1, "video": True, "pack": lambda pipeline, latents: latents[:, :, None], **TRUE_CFG}
MOCHI: dict[str, Any] = {"text": 1, "video": True, "pack": lambda pipeline, latents: latents[:, :, None]}
FAMILIES = {
    family.name: family
    for family in (
        Family("flux", flux_transformer, flux_call, flux_pipeline, pack=packed, **TRUE_CFG),
        Family("sd3.5-large", sd3_transformer, sd3_call, lambda: sd3_pipeline(sd3_transformer)),
        Family("sd3.5-medium", sd3_medium_transformer, sd3_call, sd3_pipeline),
        Family("sd3", sd30_transformer, sd3_call, lambda: sd3_pipeline(sd30_transformer)),
        Family("chroma", chroma_transformer, chroma_call, chroma_pipeline, pack=packed),
        Family("flux2-klein", flux2_transformer, flux2_call, flux2_klein_pipeline, latents=(16, 4, 6)),
        Family("flux2-dev", flux2_dev_transformer, flux2_dev_call, flux2_dev_pipeline, latents=(16, 4, 6), **NO_CFG),
        Family("qwen-image", qwen_transformer, qwen_call, qwen_pipeline, pack=packed, **TRUE_CFG),
        Family("aura-flow", aura_flow_transformer, aura_flow_call, aura_flow_pipeline),
        Family("cogvideox-2b", cogvideox_transformer, cogvideox_call, cogvideox_pipeline, **COGVIDEO),
        Family(
            "cogvideox-5b",
            cogvideox_5b_transformer,
            cogvideox_5b_call,
            lambda: cogvideox_pipeline(cogvideox_5b_transformer),
            **COGVIDEO,
        ),
        Family("hunyuan-video", hunyuan_video_transformer, hunyuan_video_call, hunyuan_video_pipeline, **HUNYUAN),
        Family(
            "hunyuan-video-1.5",
            hunyuan_video15_transformer,
            hunyuan_video15_call,
            hunyuan_video15_pipeline,
            latents=(4, 4, 6),
            halved=frozenset(("timestep",)),
            alone=True,
            **{**HUNYUAN, "guided": {}, "plain": {}},
        ),
        Family("mochi", mochi_transformer, mochi_call, mochi_pipeline, latents=(12, 8, 12), **MOCHI),
        Family("cogview4", cogview4_transformer, cogview4_call, cogview4_pipeline, text=1, linears=SHARED),
    )
}
