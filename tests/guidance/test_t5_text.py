"""The T5 reader: the encoder's own attention, position bias and mask included, and a prompt's words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

import conceptlens as cl
from conceptlens.watch.t5_text import T5AttentionReader, t5_positions, t5_text_attention
from conceptlens.watch.word_places import read_words
from specimens.random_models import randomize
from tiny_models import tokenizers

PROMPT = "a red house and an orange umbrella"


def encoder(kind: str) -> Any:
    torch.manual_seed(3)
    size: dict[str, Any] = {"vocab_size": 160, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 3, "num_heads": 2}
    made = T5EncoderModel(T5Config(**size)) if kind == "t5" else UMT5EncoderModel(UMT5Config(**size))
    return randomize(made, 0.6)


def ids_of(*prompts: str, length: int = 20) -> Any:
    return tokenizers()[1](list(prompts), padding="max_length", max_length=length, return_tensors="pt")


@pytest.mark.parametrize("kind", ["t5", "umt5"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_encoders_own(kind: str, masked: bool) -> None:
    made, given = encoder(kind), ids_of(PROMPT, "a sun")
    mask = given.attention_mask.bool() if masked else None
    read = t5_text_attention(made, given.input_ids, mask)
    made.set_attn_implementation("eager")
    with torch.no_grad():
        own = torch.stack(made(given.input_ids, attention_mask=mask, output_attentions=True).attentions, 1)
    torch.testing.assert_close(read, own.mean((1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(read.sum(-1), torch.ones(2, 20), atol=1e-5, rtol=0)
    assert read.triu(1).max() > 0.05, "a T5 encoder looks ahead"
    assert (read[1, :, 6:].max() == 0) == masked
    with T5AttentionReader(made) as reader:
        made(given.input_ids, attention_mask=mask)
    blind = reader.attention(content=False)
    if not masked:
        # The bias knows distances alone: every word at the same place gets the same.
        torch.testing.assert_close(blind[0], blind[1], atol=1e-6, rtol=0)
        assert not torch.allclose(blind.mean(1), read, atol=1e-3)


def test_the_encoder_computes_as_ever_and_keeps_no_hooks() -> None:
    made, given = encoder("t5"), ids_of(PROMPT)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in made.modules())

    with torch.no_grad():
        plain, before = made(given.input_ids).last_hidden_state, hooks()
        with T5AttentionReader(made):
            assert hooks() > before
            read = made(given.input_ids).last_hidden_state
        assert torch.equal(plain, read)
        with pytest.raises(RuntimeError, match="stop"), T5AttentionReader(made):
            raise RuntimeError("stop")
    assert hooks() == before


def test_only_t5_can_be_read() -> None:
    with pytest.raises(cl.ModelError, match="self-attention of Linear cannot be read; T5 text encoders can"):
        T5AttentionReader(torch.nn.Linear(1, 1))
    with pytest.raises(cl.ConceptlensError, match="has not run"):
        T5AttentionReader(encoder("t5")).attention()


def test_words_and_their_pieces() -> None:
    tokenizer: Any = tokenizers()[1]
    ids = ids_of(PROMPT).input_ids[0]
    places = t5_positions(ids, tokenizer.eos_token_id)
    assert places == tuple(range(15))
    _, words = read_words(tokenizer, PROMPT, ids.tolist(), places)
    assert [word.text for word in words] == ["a", "red", "house", "and", "an", "orange", "umbrella"]
    assert words[-1].positions == tuple(range(6, 15))
    assert t5_positions(torch.tensor([5, 6]), 1) == (0, 1)
