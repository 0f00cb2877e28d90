"""Every weight of a model comes from its files: what a library would make up, or leave out of a stack, is an error."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import ModelMixin, SchedulerMixin
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conceptlens.values.errors import one_line
from conceptlens.values.models import Pipeline

_MODELS = (ModelMixin, PreTrainedModel)
_LOADERS = (*_MODELS, SchedulerMixin, PreTrainedTokenizerBase)
_UNREAD = "pooler."
"""The head of BERT and its kin, which checkpoints for sentences often lack; nothing here reads its output."""
_LOADING = threading.RLock()


@contextmanager
def whole_weights() -> Iterator[None]:
    """Within it, no model of diffusers or transformers is loaded with weights that its files lack.

    Both libraries fill in what a checkpoint lacks with random numbers and only warn, also for the parts of a pipeline.
    Here their own report of it, `output_loading_info`, is asked for with every `from_pretrained` of this process. A
    model that is not whole is a `ValueError` with the name of its folder. So is any other failure of a model, a
    scheduler or a tokenizer.
    """
    with _LOADING:
        originals = [vars(kind)["from_pretrained"] for kind in _LOADERS]
        for kind, original in zip(_LOADERS, originals, strict=True):
            kind.from_pretrained = classmethod(_checked(original.__func__))  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            for kind, original in zip(_LOADERS, originals, strict=True):
                kind.from_pretrained = original


def _checked(load: Callable[..., Any]) -> Callable[..., Any]:
    def from_pretrained(cls: type, source: object, *args: Any, **options: Any) -> object:
        part = Path(str(source)).name
        try:
            if not issubclass(cls, _MODELS):
                return load(cls, source, *args, **options)
            wanted = options.pop("output_loading_info", False)
            if issubclass(cls, PreTrainedModel):  # else the error would not say which weight; `_faults` does
                options["ignore_mismatched_sizes"] = True
            model, info = load(cls, source, *args, output_loading_info=True, **options)
        except Exception as error:
            raise ValueError(f"{part}: {cause(error)}") from error
        faults = list(_faults(model, info))
        if faults:
            more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
            raise ValueError(f"{part}: {faults[0]}{more}")
        return (model, info) if wanted else model

    return from_pretrained


def _faults(model: nn.Module, info: Mapping[str, Any]) -> Iterator[str]:
    """What makes the loaded model another than the one that was saved."""
    kind = type(model).__name__
    for name, *shapes in sorted(info["mismatched_keys"]):
        saved, expected = (tuple(shape) for shape in shapes)
        yield f"{name} has shape {saved} in the weights, {expected} by config.json"
    for name in sorted(name for name in info["missing_keys"] if not name.startswith(_UNREAD)):
        yield f"the weights have no {name} for {kind}, whatever this release of the library calls it"
    for name in _cut_off(model, info["unexpected_keys"]):
        yield f"the weights have {name}, a block beyond those that config.json gives {kind}"


def _cut_off(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Weights of blocks behind a stack's last one.

    Nothing else that is left over is a fault: another task's head, buffers and the scales of quantisers change nothing.
    """
    stacks = {name for name, part in model.named_modules() if isinstance(part, nn.ModuleList)}
    parts = (name.split(".") for name in sorted(unexpected))
    return [
        ".".join(path)
        for path in parts
        if any(
            piece.isdigit()
            and ".".join(path[:place]) in stacks
            and int(piece) >= len(model.get_submodule(".".join(path[:place])))  # type: ignore[arg-type]
            for place, piece in enumerate(path)
        )
    ]


def check_tokenizers(pipeline: Pipeline) -> None:
    """Holds each tokenizer against its text encoder: without its files it would know no word, or no limit of length.

    Raises:
        ValueError: for one that does not belong to its encoder.
    """
    for part, tokenizer in pipeline.components.items():
        encoder = pipeline.components.get(part.replace("tokenizer", "text_encoder"))
        if not isinstance(tokenizer, PreTrainedTokenizerBase) or not isinstance(encoder, PreTrainedModel):
            continue
        config: Any = encoder.config.get_text_config()
        if len(tokenizer) < config.vocab_size / 2:
            raise ValueError(
                f"{part}: it knows {len(tokenizer)} tokens, and its text encoder {config.vocab_size}; its files are "
                "incomplete or another model's"
            )
        if config.model_type.startswith("clip") and tokenizer.model_max_length > config.max_position_embeddings:
            raise ValueError(
                f"{part}: model_max_length in tokenizer_config.json must be at most {config.max_position_embeddings}, "
                f"the positions of its text encoder; it is {tokenizer.model_max_length}"
            )


def cause(error: BaseException) -> str:
    """An exception's first line, with its type where the text alone would say nothing, as a missing key's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2]).rstrip(".") if lines and lines[0].endswith(":") else one_line(error)
    text = text.partition(". If you want to instead")[0]  # the advice to go on with random weights
    plain = isinstance(error, (OSError, ValueError, RuntimeError, ImportError, TypeError, AttributeError))
    return text if plain or not lines else f"{type(error).__name__}: {text}"


def damaged_file(folder: Path) -> str | None:
    """The first file of a model's folder or of its parts that cannot be read, and why; None where all can be."""
    for path in sorted((*folder.glob("*.*"), *folder.glob("*/*.*"))):
        try:
            if path.suffix == ".json":
                held = json.loads(path.read_text(encoding="utf-8"))
                if path.name.endswith(("config.json", "index.json", "tokenizer.json")) and not isinstance(held, dict):
                    return f"{path} is damaged (a JSON object is needed)"
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            return f"{path} is damaged ({one_line(error)})"
    return None
