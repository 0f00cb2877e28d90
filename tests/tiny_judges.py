"""Tiny random models that look at pictures, of the real classes, saved as the hub's folders are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    T5Config,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessorPil,
    ViltProcessor,
)

from specimens.random_models import randomize
from tiny_methods import tiny_clip
from tiny_models import tokenizers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
_WORDS = """
yes no red blue green house boat sun tree a an the is there what color colour of picture on and with sea ? . , : two
answer multiple choice question choices
"""
WORDS = [*SPECIAL, *_WORDS.split(), *"##s"]
SIDE = 32
TOWER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION: dict[str, Any] = {**TOWER, "image_size": SIDE, "patch_size": 16}


def bert_tokenizer() -> BertTokenizer:
    made = BertTokenizer({word: number for number, word in enumerate(WORDS)}, do_lower_case=True)
    made.model_max_length = 40
    return made


def _image_processor(kind: Any = BlipImageProcessorPil, **size: int) -> Any:
    return kind(size=size or {"height": SIDE, "width": SIDE})


def _blip(kind: Any, folder: Path) -> str:
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 64, "is_decoder": True}
    text |= {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    vision = {**VISION, "initializer_range": 0.02}
    randomize(kind(BlipConfig(text_config=text, vision_config=vision)), 0.3).save_pretrained(folder)
    BlipProcessor(_image_processor(), bert_tokenizer()).save_pretrained(folder)
    return str(folder)


def blip_vqa(folder: Path) -> str:
    return _blip(BlipForQuestionAnswering, folder)


def blip_captioner(folder: Path) -> str:
    return _blip(BlipForConditionalGeneration, folder)


def git(folder: Path) -> str:
    torch.manual_seed(0)
    config = GitConfig(
        vision_config=VISION, vocab_size=len(WORDS), **TOWER, bos_token_id=2, eos_token_id=3, pad_token_id=0
    )
    randomize(GitForCausalLM(config), 0.3).save_pretrained(folder)
    GitProcessor(CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE), bert_tokenizer()).save_pretrained(
        folder
    )
    return str(folder)


def vilt(folder: Path) -> str:
    torch.manual_seed(0)
    answers = {0: "yes", 1: "no", 2: "red"}
    config = ViltConfig(**VISION, vocab_size=len(WORDS), id2label=answers, label2id={v: k for k, v in answers.items()})
    randomize(ViltForQuestionAnswering(config), 0.3).save_pretrained(folder)
    ViltProcessor(ViltImageProcessorPil(size={"shortest_edge": SIDE}), bert_tokenizer()).save_pretrained(folder)
    return str(folder)


def _chat_tokenizer(special: Any) -> PreTrainedTokenizerFast:
    marks = ["<unk>", "<pad>", "</s>", "<image>"]
    model = Tokenizer(WordLevel({w: n for n, w in enumerate([*marks, *WORDS[6:]])}, unk_token="<unk>"))
    model.pre_tokenizer = Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    made = PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens=special,
    )
    made.padding_side = "left"
    return made


def blip2(folder: Path) -> str:
    torch.manual_seed(0)
    tokenizer = _chat_tokenizer(["<image>"])
    text = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, eos_token_id=2)
    text.decoder_start_token_id, text.pad_token_id = 1, 1
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=Blip2QFormerConfig(
            **TOWER, encoder_hidden_size=16, cross_attention_frequency=1, vocab_size=len(tokenizer)
        ).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=3,
    )
    randomize(Blip2ForConditionalGeneration(config), 0.3).save_pretrained(folder)
    Blip2Processor(_image_processor(), tokenizer, num_query_tokens=3).save_pretrained(folder)
    return str(folder)


def llava(folder: Path) -> str:
    torch.manual_seed(0)
    tokenizer = _chat_tokenizer({"image_token": "<image>"})
    text = LlamaConfig(**TOWER, vocab_size=len(tokenizer), num_key_value_heads=2, pad_token_id=1, eos_token_id=2)
    config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=3)
    randomize(LlavaForConditionalGeneration(config), 0.3).save_pretrained(folder)
    template = (
        "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return str(folder)


def sentence_model(folder: Path) -> str:
    torch.manual_seed(0)
    config = MPNetConfig(**TOWER, vocab_size=len(WORDS), max_position_embeddings=64)
    randomize(MPNetModel(config, add_pooling_layer=False), 0.3).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return str(folder)


def clip(folder: Path) -> str:
    tiny_clip().save_pretrained(folder)
    tokenizers()[0].save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    return str(folder)
