"""What the tiny pipelines of cross attention are put together from."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import Gemma2Model, T5Config, T5EncoderModel

from specimens.random_models import randomize
from tiny_models import tokenizers

TEXT, HEADS, HEAD = 20, 2, 12
"""Width of the encoded text; heads and their width. Wan's rotation needs a multiple of six."""
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
"""Settings of a scheduler of flow models."""


def scheduler_of(kind: type[Any], **settings: Any) -> Any:
    """A scheduler that hands tensors to NumPy while it is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return kind(**settings)


def t5(width: int = TEXT) -> T5EncoderModel:
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizers()[1]), d_model=width, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return T5EncoderModel(config).eval()


def louder(transformer: Any, attention: str = "attn2") -> Any:
    """Random weights everywhere; maps of small ones are all alike, so cross attention gets larger ones."""
    randomize(transformer)
    for name, weight in transformer.named_parameters():
        if f"{attention}.to_q" in name or f"{attention}.to_k" in name:
            weight.data *= 3
    return transformer


def gemma(model: Any = Gemma2Model) -> tuple[Any, Any]:
    """A text encoder of two layers with its tokenizer."""
    words = tokenizers()[1]
    words.model_max_length = 4096  # Sana's instruction comes first
    torch.manual_seed(3)
    config = model.config_class(
        vocab_size=len(words),
        hidden_size=TEXT,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
        pad_token_id=0,
    )
    return words, model(config).eval()
