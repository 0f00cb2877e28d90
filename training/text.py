"""The tokenizers and text encoders of the demo model: the real T5 and CLIP classes, with a picture-book vocabulary."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from conceptlens.bench.datasets.moving import MOTIONS
from conceptlens.bench.datasets.scenes import COLOURS, CONCEPTS, SKIES

LENGTH = 32
"""Tokens per prompt, padding included."""

WORDS = tuple(
    dict.fromkeys(
        (
            *CONCEPTS,
            *COLOURS,
            *SKIES,
            *["a", "an", "the", "and", "on", "in", "at", "under", "over", "above", "below", "near", "with", "by", "of"],
            *["picture", "small", "big", "left", "right", "background"],
        )
    )
)
FILM_WORDS = tuple(dict.fromkeys((*WORDS, *MOTIONS)))
CHAT_END = "<|eot_id|>"
_CHAT_MARKS = ["<pad>", CHAT_END, "<unk>", "<|start_header_id|>", "<|end_header_id|>"]


def build_t5_tokenizer(words: tuple[str, ...] = WORDS) -> T5Tokenizer:
    """Whole words of the vocabulary are one piece; any other word falls apart into characters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -2.0) for word in words]
    pieces += [(char, -8.0) for char in string.ascii_lowercase + string.digits + ".-'"]
    pieces += [(",", -2.0)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)


def renumbered(tokenizer: T5Tokenizer, words: tuple[str, ...], number_of: Callable[[str], int], other: int) -> Tensor:
    """For each of T5's pieces another tokenizer's number: of words and the comma `number_of`, of the rest `other`."""
    numbers = torch.full((len(tokenizer),), other)
    for word in (*words, ","):
        numbers[tokenizer.convert_tokens_to_ids("," if word == "," else f"▁{word}")] = number_of(word)
    return numbers


def padded(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Token ids of each text, (texts, LENGTH)."""
    encoded = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return encoded.input_ids


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of an exported model; made where there is none yet.

    The trainer of the vocabulary breaks ties by chance, so that a second one would give some tokens other numbers: the
    first one stays.
    """
    if not folder.exists():
        build_clip_tokenizer().save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for remark in ("is_local", "local_files_only"):  # of this loading, not of the tokenizer
        tokenizer.init_kwargs.pop(remark, None)
    return tokenizer


def build_clip_tokenizer(words: tuple[str, ...] = WORDS) -> CLIPTokenizer:
    """A byte-pair vocabulary trained on the words themselves, so that each word is one token."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        end_of_word_suffix="</w>",
        initial_alphabet=list(string.ascii_lowercase + string.digits + ",.-'"),
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    trained.train_from_iterator([*words, ","] * 4, trainer)
    vocab = trained.get_vocab()
    for char in string.ascii_lowercase + string.digits + ",.-'":
        for piece in (char, f"{char}</w>"):
            vocab.setdefault(piece, len(vocab))
    with TemporaryDirectory() as folder:
        saved = trained.model.save(folder)
        lines = Path(saved[1]).read_text().splitlines()
    merges = [tuple(line.split()) for line in lines if not line.startswith("#")]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def build_t5(vocab_size: int, width: int = 96) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocab_size,
            d_model=width,
            d_kv=24,
            d_ff=2 * width,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=32,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_word_tokenizer(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A language model's: whole words, small letters or capitals, with the marks of a chat; the rest is unknown."""
    vocabulary = {piece: number for number, piece in enumerate([*_CHAT_MARKS, "\n", *words, ","])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=[*_CHAT_MARKS[3:], CHAT_END]
    )


def build_llama(vocab_size: int, width: int = 96) -> LlamaModel:
    """Four blocks, of which HunyuanVideo reads the second."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=8 * LENGTH,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_clip(
    tokenizer: CLIPTokenizer,
    width: int = 64,
    layers: int = 2,
    kind: type[PreTrainedModel] = CLIPTextModel,
    positions: int = LENGTH,
) -> PreTrainedModel:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=positions,
            hidden_act="gelu",
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
