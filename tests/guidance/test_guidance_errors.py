"""What guidance refuses, each in one clear line."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from diffusers import (
    DPMSolverSinglestepScheduler,
    FirstBlockCacheConfig,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

import conceptlens as cl
from conceptlens.guidance import TSAM, AttendAndExcite, Conform, Guidance, SynGen, guide
from conceptlens.guidance.base import check_choice
from tiny_models import chroma_pipeline, flux_pipeline
from tiny_sd import sd_pipeline, sdxl_pipeline

PROMPT = "a red house and a blue boat"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (HeunDiscreteScheduler, "HeunDiscreteScheduler is of order 2: it steps between noise levels. Use DDIMSch"),
        (UniPCMultistepScheduler, "UniPCMultistepScheduler computes steps from its own history"),
        (DPMSolverSinglestepScheduler, "DPMSolverSinglestepScheduler computes steps from its own history"),
        (PNDMScheduler, "PNDMScheduler with Runge-Kutta steps goes between noise levels. Set skip_prk_steps"),
    ],
)
def test_schedulers(scheduler: Any, says: str) -> None:
    pipeline = sd_pipeline()
    pipeline.scheduler = scheduler()
    with pytest.raises(cl.ModelError, match=says):
        guide(pipeline, PROMPT, TSAM())


def test_pipelines_of_other_kinds() -> None:
    with pytest.raises(
        cl.ModelError, match="works on StableDiffusionPipeline, StableDiffusionXL.* an experiment, FluxP.*got ChromaP"
    ):
        guide(chroma_pipeline(), PROMPT, TSAM(experimental=True))
    with pytest.raises(cl.ModelError, match=r"\(FluxPipeline\) is an experiment .* Say experimental=True"):
        guide(flux_pipeline(), PROMPT, TSAM())
    with pytest.raises(cl.ModelError, match="syngen reads the cross-attention of U-Nets; FluxPipeline has none"):
        guide(flux_pipeline(), PROMPT, SynGen())
    pipeline = sd_pipeline()
    pipeline.controlnet = torch.nn.Identity()
    with pytest.raises(cl.ModelError, match="has a ControlNet, whose residuals guidance cannot see"):
        guide(pipeline, PROMPT, TSAM())


def test_an_ip_adapter() -> None:
    pipeline = sd_pipeline()
    pipeline.unet.encoder_hid_proj = torch.nn.Identity()
    with pytest.raises(cl.ModelError, match="an IP-Adapter is loaded"):
        guide(pipeline, PROMPT, TSAM())
    with pytest.raises(cl.ModelError, match="ip_adapter_image was given"):
        guide(sd_pipeline(), PROMPT, TSAM(), ip_adapter_image=torch.zeros(1, 3, 8, 8))


def test_unets_that_cannot_be_guided() -> None:
    with pytest.raises(cl.ModelError, match=r"takes the guidance scale as an input \(LCM\)"):
        guide(sd_pipeline(time_cond_proj_dim=8), PROMPT, TSAM())
    pipeline = sd_pipeline()
    pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.norm_q = torch.nn.Identity()
    with pytest.raises(cl.ModelError, match=r"mid_block.*attn2 normalises its queries or keys"):
        guide(pipeline, PROMPT, TSAM(attention_size=(8, 8)))
    pipeline = sd_pipeline()
    layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    layer.set_processor(CustomDiffusionAttnProcessor(hidden_size=16, cross_attention_dim=12))
    says = r"mid_block.*attn2 has a CustomDiffusionAttnProcessor with additional weights"
    with pytest.raises(cl.ModelError, match=says):
        guide(pipeline, PROMPT, TSAM(attention_size=(8, 8)))


def test_sequential_offload() -> None:
    pipeline = sd_pipeline()
    pipeline.unet.conv_in._hf_hook = type("Hook", (), {"offload": True})()
    with pytest.raises(cl.ModelError, match="sequential offload drops weights before the backward pass"):
        guide(pipeline, PROMPT, TSAM())


def test_weights_that_are_gone_in_the_backward_pass() -> None:
    pipeline = sd_pipeline()
    pipeline.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    with pytest.raises(cl.ModelError, match="layerwise casting takes weights away before the backward pass"):
        guide(pipeline, PROMPT, TSAM())
    pipeline = sd_pipeline()
    pipeline.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    with pytest.raises(cl.ModelError, match="group offloading takes weights away before the backward pass"):
        guide(pipeline, PROMPT, TSAM())


def test_settings_and_offloading_of_a_transformer() -> None:
    with pytest.raises(cl.ModelError, match="attention_size is of U-Nets; FluxPipeline reads blocks of one size"):
        guide(flux_pipeline(), PROMPT, TSAM(experimental=True, attention_size=(4, 4)))
    pipeline = flux_pipeline()
    pipeline.transformer.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    with pytest.raises(cl.ModelError, match="group offloading takes weights away before the backward pass"):
        guide(pipeline, PROMPT, TSAM(experimental=True))


def test_a_step_cache() -> None:
    pipeline = flux_pipeline()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    with pytest.raises(cl.ModelError, match="a step cache is on, which skips blocks that are read. Call pipeline.tran"):
        guide(pipeline, PROMPT, TSAM(experimental=True))


def test_maps_of_another_shape() -> None:
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 16, "width": 32}
    with pytest.raises(
        cl.ModelError, match=r"no .* 8x4 \(rows x columns\), but .* 4x8 .* Give attention_size=\(4, 8\)"
    ):
        guide(sd_pipeline(), PROMPT, TSAM(attention_size=(8, 4)), **options)
    with pytest.raises(cl.RecipeError, match="a smoothing kernel of 9 is too large for maps of 4x8. Smooth less"):
        guide(sd_pipeline(), PROMPT, TSAM(attention_size=(4, 8), smoothing=(9, 0.5)), **options)
    with pytest.raises(cl.RecipeError, match="a smoothing kernel of 3 is too large for maps of 1x1"):
        guide(sd_pipeline(), PROMPT, TSAM(), num_inference_steps=2, height=4, width=4)


def test_no_layer_of_the_size() -> None:
    with pytest.raises(
        cl.ModelError,
        match=r"no cross-attention layer has 4x4 = 16 positions; there are layers with 64\. Give attention_s",
    ):
        guide(sd_pipeline(), PROMPT, TSAM(attention_size=(4, 4)), num_inference_steps=2)


@pytest.mark.parametrize(
    ("guidance", "prompt", "says"),
    [
        (TSAM(), "sun", r"the prompt 'sun' has 1 token\(s\); T-SAM compares two or more"),
        (TSAM(), "  ", r"the prompt must be a text or a list of texts; got \['  '\]"),
        (AttendAndExcite(words=["moon"]), "a sun", "'moon' is not in the prompt 'a sun'. Its words: a, sun"),
        (AttendAndExcite(words="sun"), "a sun", "words must be a list of words of the prompt; got 'sun'"),
        (AttendAndExcite(), "of the", "no subject was found in the prompt 'of the'"),
        (Conform(), "a red sun", "CONFORM contrasts two or more groups of words; 'a red sun' gives 1"),
        (SynGen(), "a sun and a boat", "binds modifiers to nouns, and 'a sun and a boat' shows none"),
    ],
)
def test_prompts(guidance: Guidance, prompt: str, says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        guide(sd_pipeline(), prompt, guidance, num_inference_steps=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"generator": torch.Generator()}, "generator cannot be given to guide. Give seed"),
        ({"prompt_embeds": torch.zeros(1)}, "prompt_embeds cannot be given to guide. Give the prompt as text"),
        ({"return_dict": False}, "return_dict cannot be given to guide. A GuidedResult is returned"),
        ({"colour": "red"}, "StableDiffusionPipeline has no option 'colour'"),
        ({"seed": (1, 2)}, "seed must be one number of 64 bits, or one for each of 1 images"),
        ({"num_images_per_prompt": "2"}, "num_images_per_prompt must be a whole number from 1; got '2'"),
        ({"height": 30, "width": 30}, "refused its settings: .*divisible by 8"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1; got 0"),
    ],
)
def test_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        guide(sd_pipeline(), PROMPT, TSAM(steps=(1,)), **options)


def test_a_second_prompt() -> None:
    with pytest.raises(cl.RecipeError, match="prompt_2 differs from prompt"):
        guide(sdxl_pipeline(), PROMPT, TSAM(), prompt_2="a sun")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TSAM(alpha=float("nan")), "alpha must be a finite step size; got nan"),
        (lambda: TSAM(gamma=float("inf")), "gamma must be a finite number above 0; got inf"),
        (lambda: TSAM(bounds={0: float("nan")}), "bounds must give a loss for each step; got {0: nan}"),
        (lambda: TSAM(attention_size=(16, 0)), r"attention_size must be two whole numbers.*got \(16, 0\)"),
        (
            lambda: TSAM(smoothing=(2, 0.5)),
            r"smoothing must be \(kernel size, sigma\), an odd whole number.*got \(2, 0.5",
        ),
        (lambda: AttendAndExcite(smoothing=(3, 0.0)), r"smoothing must be .* a number above 0; got \(3, 0.0\)"),
        (lambda: TSAM(gamma=0), "gamma must be a finite number above 0; got 0"),
        (lambda: TSAM(steps=(-1,)), "steps must be whole numbers from 0"),
        (lambda: TSAM(inner={0: -1}), "inner must give a number of updates for each step"),
        (lambda: TSAM(grad_scale=0), "grad_scale must be a finite number above 0"),
        (lambda: TSAM(first_encoder_weight=2), "first_encoder_weight must be a share from 0 to 1"),
        (lambda: TSAM.preset("paper"), "no T-SAM preset 'paper'. Known: paper-tifa, paper-ae, release, transformer"),
        (lambda: Conform(temperature=0), "temperature must be a finite number above 0"),
        (lambda: check_choice("loss", "l2", Literal["abs", "cos_rows"]), "loss must be one of abs, cos_rows; got 'l2'"),
    ],
)
def test_settings(make: Any, says: str) -> None:
    with pytest.raises(cl.RecipeError, match=says):
        make()


def test_every_message_is_one_line() -> None:
    with pytest.raises(cl.ConceptlensError) as caught:
        guide(sd_pipeline(), PROMPT, TSAM(attention_size=(4, 4)), num_inference_steps=2)
    assert "\n" not in str(caught.value)
