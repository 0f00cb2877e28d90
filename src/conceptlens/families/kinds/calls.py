"""One transformer call: what is kept of its arguments, and the same call again with concepts in place of the text."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conceptlens.families.base import Concepts, repeat_rows, take
from conceptlens.families.kinds.layouts import Layout
from conceptlens.values.errors import ModelError
from conceptlens.values.records import CallRecord

_WHOLE = ("img_ids", "txt_ids", "position_ids")
_PLAIN = (bool, int, float, str, list, tuple)
_OWN = ("images", "latents", "text", "parts", "masks", "leading", "widths")
_LEFT_OUT = ("return_dict", "kv_caches")


def named_arguments(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call by name, those of a forward that takes `**kwargs` among them.

    Raises:
        ModelError: for a forward that was replaced by one which does not name what it was given.
    """
    signature = inspect.signature(type(module).forward)
    given = dict(signature.bind(module, *args, **kwargs).arguments)
    given.pop(next(iter(signature.parameters)), None)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(parameter.name, {})
        elif parameter.kind is parameter.VAR_POSITIONAL and given.pop(parameter.name, ()):
            raise replaced_forward(module)
    return given


def replaced_forward(module: Any) -> ModelError:
    """What to tell of a forward that no longer names its arguments."""
    return ModelError(
        f"the forward of {type(module).__name__} was replaced by one that does not name its arguments (by a cache or a "
        "parallel runner, say). Remove that tool, or have it wrap the forward with functools.wraps."
    )


def stacked(value: Any) -> Tensor:
    """A batch, whether it came as one tensor or as a list with one for each picture."""
    return value if torch.is_tensor(value) else torch.stack(list(value))


def observed(
    layout: Layout, config: Any, arguments: Mapping[str, Any], rows: slice, step: int, registers: int = 0
) -> CallRecord:
    """What is kept of a call: all but image and text, for the given rows of the batch.

    Args:
        layout: of the class.
        config: of the transformer.
        arguments: of the call.
        rows: of the batch.
        step: of the run.
        registers: learned rows that the model puts in front of the text.

    Raises:
        ModelError: for prompts of several lengths in one batch where that shifts the image rows.
    """
    latents, text = arguments[layout.latents], layout.encoded_rows(arguments)
    masks = {name: arguments[name] for name in layout.masks if arguments.get(name) is not None}
    lengths = {int(count) for mask in masks.values() for count in mask[rows].sum(dim=-1)}
    if layout.joint == "text first" and len(lengths) > 1:
        raise ModelError("prompts of different lengths shift this model's image rows. Paint them one by one.")
    grid = layout.grid(config, arguments)
    packed = torch.is_tensor(latents) and latents.ndim == 3 and layout.roles is None
    images = latents.shape[1] if packed else layout.padded(config, grid)
    if layout.indices:
        images = len(arguments[layout.rowwise[0]]) - len(arguments[layout.indices[0]])
    kept: dict[str, Tensor] = {}
    settings: dict[str, Any] = {
        "images": images,
        "latents": list(stacked(latents)[rows].shape),
        "text": list(text[0][0].shape[1:]) if len(text) == 1 else [sum(rows[0].shape[-1] for rows in text)],
        "leading": registers + _leading(layout, arguments),
        "parts": {},
        "masks": {name: str(mask.dtype).removeprefix("torch.") for name, mask in masks.items()},
    }
    if layout.layered is not None:
        settings["widths"] = [part.shape[-1] for part in (arguments[layout.text], *arguments[layout.layered])]
    own = (layout.latents, layout.text, layout.layered, *layout.masks, *layout.joint_masks, *layout.lengths)
    for name, value in arguments.items():
        if value is None or name in own + _LEFT_OUT or "controlnet" in name:
            continue
        if torch.is_tensor(value):
            shared = bool(layout.indices) and value.ndim < latents.ndim  # one sequence for all pictures
            whole = shared or name in _WHOLE or value.ndim == 0 or len(value) != len(latents)
            kept[name] = value if whole else take(value, rows)
        elif isinstance(value, (list, tuple)) and value and all(torch.is_tensor(part) for part in value):
            kept |= {f"{name}.{number}": part for number, part in enumerate(value)}
            settings["parts"][name] = len(value)
        elif isinstance(value, _PLAIN):
            settings[name] = value[rows] if isinstance(value, list) and len(value) == len(latents) else value
    return CallRecord(step, grid, kept, settings)


def _leading(layout: Layout, arguments: Mapping[str, Any]) -> int:
    """How many rows of other pictures stand in front of the text."""
    pictures = None if layout.pictures is None else arguments.get(layout.pictures)
    return 0 if pictures is None else pictures.shape[1]


def entered(
    layout: Layout, concepts: Concepts, call: CallRecord, dtype: torch.dtype, length: int | None
) -> dict[str, Any]:
    """The call again: concepts for the text, zeros for the image, whose rows are put in at each block.

    Args:
        layout: of the class.
        concepts: the new text.
        call: what was kept.
        dtype: of the transformer.
        length: the one length of text that the model takes; None where it takes any.
    """
    given, settings, tokens = call.arguments, call.settings, concepts.tokens
    device, batch, count = given[layout.timestep].device, settings["latents"][0], len(concepts.tokens)
    made: dict[str, Any] = {name: value for name, value in settings.items() if name not in _OWN}
    made |= {name: tensor for name, tensor in given.items() if name.split(".")[0] not in settings["parts"]}
    for name, number in settings["parts"].items():
        made[name] = tuple(given[f"{name}.{part}"] for part in range(number))
    made[layout.latents] = torch.zeros(settings["latents"], device=device, dtype=dtype)
    text = tokens.unflatten(-1, settings["text"]) if len(settings["text"]) > 1 else tokens
    if length is not None:
        text = torch.cat([text, text.new_zeros(max(0, length - count), *text.shape[1:])])
    made[layout.text] = repeat_rows(text, batch).to(device, dtype)
    if layout.layered is not None:
        made[layout.text], *made[layout.layered] = made[layout.text].split(settings["widths"], dim=-1)
    for name, kind in settings["masks"].items():
        made[name] = torch.ones(batch, count, device=device, dtype=getattr(torch, kind))
    for name in layout.lengths:
        made[name] = torch.full((batch,), count, device=device)
    for name in layout.silent:
        if name in made:
            made[name] = torch.zeros_like(made[name])
    places = list(concepts.positions or range(count))
    if layout.text_ids is not None:
        made[layout.text_ids] = _rows(given[layout.text_ids], places)
    for name in layout.rowwise:
        words, others = given[name].split([len(given[name]) - settings["images"], settings["images"]])
        made[name] = torch.cat([_rows(words, places), others])
    for name in layout.indices:
        made[name] = given[name] + count - len(given[layout.indices[0]])
    if layout.indices:
        made[layout.indices[0]] = torch.arange(count, device=device)
    if layout.roles is not None:
        made |= _one_sequence(layout, made, given, settings["images"], places)
    for name in layout.listed:
        made[name] = list(made[name].unbind(dim=0))
    return made


def _one_sequence(
    layout: Layout, made: Mapping[str, Any], given: Mapping[str, Tensor], images: int, places: list[int]
) -> dict[str, Tensor]:
    """Arguments of one sequence: the concepts, then the image, and no padding."""
    assert layout.roles is not None
    name, words, painted = layout.roles
    text, latents, count = made[layout.text], made[layout.latents], len(places)
    ids, role = given["position_ids"][0], given[name][0]
    roles = torch.cat([role.new_full((count,), words), role.new_full((images,), painted)]).expand(len(text), -1)
    return {
        layout.text: torch.cat([text, text.new_zeros(len(text), images, text.shape[-1])], dim=1),
        layout.latents: latents.new_zeros(len(text), count + images, latents.shape[-1]),
        "position_ids": torch.cat([_rows(ids[role == words], places), ids[role == painted]]).expand(len(text), -1, -1),
        "segment_ids": torch.ones_like(roles),
        name: roles,
    }


def _rows(ids: Tensor, places: list[int]) -> Tensor:
    """What stands at some text rows, (row, ...); beyond the prompt's end the last row's."""
    flat = ids[0] if ids.ndim == 3 else ids
    return flat[[min(place, len(flat) - 1) for place in places]]
