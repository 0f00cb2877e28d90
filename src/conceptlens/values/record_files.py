"""Image records as files: one safetensors file with a JSON header, readable without running anything."""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptlens.values.clips import Clip
from conceptlens.values.errors import ConceptlensError, ImageError, one_line
from conceptlens.values.files import check_file, into_folder
from conceptlens.values.recipe import MOST_STEPS, Recipe, check_counts, check_seed
from conceptlens.values.records import (
    CallRecord,
    CrossLayer,
    EnteredLayer,
    ImageRecord,
    LayerRecord,
    StreamLayer,
    TokenGrid,
)

FORMAT = "conceptlens-record-2"
UNCHECKED_FORMAT = "conceptlens-record-1"
"""Records without a checksum, as they were written until version 0.1."""
_MOST_BLOCKS, _LONGEST_SIDE, _LARGEST = 1000, 2**14, 2**31
_AXES = {"key": 4, "value": 4, "query": 4, "out": 3, "hidden": 3, "image_key": 4}


def save_record(record: ImageRecord, path: str | Path) -> Path:
    """Writes a record: tensors by layer and part, those of any further denoising step with its number in front.

    Raises:
        OutputError: when the file cannot be written.
    """
    check_file(path)
    target = Path(path)
    tensors: dict[str, Tensor] = {"image": _encode(record.image)}
    if record.clip is not None:
        tensors |= {f"frame.{n}": _encode(frame) for n, frame in enumerate(record.clip.frames[1:], 1)}
    first, *further = record.recorded_steps
    for layer in record.layers:
        front = "" if layer.call.step == first else f"{layer.call.step}/"
        for part, tensor in layer.tensors.items():
            tensors[f"{front}{layer.layer}.{part}"] = tensor.detach().cpu().contiguous()
        for name, tensor in layer.call.arguments.items():
            if f"{front}call.{name}" not in tensors:
                tensors[f"{front}call.{name}"] = tensor.detach().cpu().contiguous().clone()
    header = {
        "grid": [record.grid.rows, record.grid.cols, record.grid.frames],
        "step": first,
        "further": further,
        "settings": {str(layer.call.step): dict(layer.call.settings) for layer in record.layers},
        "scales": {str(layer.layer): layer.scale for layer in record.layers if isinstance(layer, CrossLayer)},
        "prompt": record.prompt,
        "model": record.model_id,
        "recipe": record.recipe.to_dict(),
        "seed": record.seed,
        "steps": record.steps,
        "options": {k: v for k, v in record.options.items() if isinstance(v, (str, int, float, bool, type(None)))},
    }
    if record.clip is not None:
        header["clip"] = {"rate": record.clip.rate, "numbers": list(record.clip.numbers)}
    text = json.dumps(header)
    metadata = {"format": FORMAT, "header": text, "checksum": _checksum(text, tensors)}
    with into_folder(target.parent) as stage:
        try:
            save_file(tensors, stage / target.name, metadata)
        except SafetensorError as error:
            raise OSError(one_line(error)) from error
    return target


def load_record(path: str | Path, device: str | torch.device = "cpu") -> ImageRecord:
    """Reads a record, and checks that it is as it was written. Warns of one that is too old to have a checksum.

    Raises:
        ImageError: for a file that is missing, damaged, or no record.
    """
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            checked = metadata.get("format") == FORMAT
            if not checked and metadata.get("format") != UNCHECKED_FORMAT:
                raise ImageError(
                    f"{path} is no record of conceptlens. Make one with: conceptlens read ... --record FILE."
                )
            text = metadata["header"]
            # Copies, since products of memory that is aligned otherwise can differ in their last bit.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        if checked and metadata.get("checksum") != _checksum(text, tensors):
            raise ValueError("its checksum does not fit, so it was damaged after it was written")
        record = _record(json.loads(text), {name: tensor.to(device) for name, tensor in tensors.items()})
    except FileNotFoundError as error:
        raise ImageError(f"no record at {path}. Check the path.") from error
    except ImageError:
        raise
    except Exception as error:  # damage can raise anything in the libraries that read the parts
        reason = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise ImageError(f"cannot read the record {path}: {reason}. Make it again.") from error
    if not checked:
        warnings.warn(f"{path} is a record without a checksum, so damage would go unseen. Make it again.", stacklevel=2)
    return record


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the header and of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.reshape(-1).contiguous()
        if flat.numel() and flat.stride(0) != 1:  # a single element that was expanded counts as contiguous
            flat = flat.clone(memory_format=torch.contiguous_format)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _record(header: Mapping[str, Any], tensors: dict[str, Tensor]) -> ImageRecord:
    """A record of its parts. Raises a ValueError, or what the parts raise, for anything that cannot be one."""
    rows, cols, *frames = header["grid"]
    grid = TokenGrid(rows, cols, *frames)
    for side in (rows, cols, 1 if grid.frames is None else grid.frames):
        _check_whole("grid", side, 1, _LONGEST_SIDE)
    steps, settings = header.get("steps", 0), header.get("settings", {})
    _check_whole("steps", steps, 0, MOST_STEPS)
    scales = header.get("scales", {})
    _check_sizes("scales", scales)
    layers: tuple[LayerRecord, ...] = ()
    for step in (header["step"], *header.get("further", ())):
        _check_whole("step", step, 0, MOST_STEPS)
        front = "" if step == header["step"] else f"{step}/"
        of_call = settings.get(str(step), {})
        _check_sizes("settings", of_call)
        _check_sizes("latents", math.prod(of_call.get("latents", ())))
        of_step = {name.removeprefix(front): t for name, t in tensors.items() if name.startswith(front)}
        arguments = {name[5:]: tensor for name, tensor in of_step.items() if name.startswith("call.")}
        layers += _layers(of_step, CallRecord(step, grid, arguments, of_call), scales)
    image = _decode(tensors["image"])
    clip = _clip(header["clip"], image, tensors, grid) if "clip" in header else None
    recipe, options = Recipe().override(header["recipe"]), header.get("options", {})
    _check_sizes("options", options)
    check_counts(options)
    if not isinstance(header["prompt"], str) or not isinstance(header["model"], str):
        raise ValueError("its prompt or its model is no text")
    seed = None if header["seed"] is None else check_seed(header["seed"])
    return ImageRecord(layers, grid, image, header["prompt"], header["model"], recipe, seed, steps, options, clip)


def _clip(header: Mapping[str, Any], first: Image.Image, tensors: Mapping[str, Tensor], grid: TokenGrid) -> Clip:
    """The film of a record. Raises a ValueError, or what its parts raise, for anything that cannot be one."""
    numbers = tuple(header["numbers"])
    for number in numbers:
        _check_whole("frame", number, 0, _LARGEST)
    if grid.frames is None or len(numbers) < grid.frames:
        raise ValueError(f"it has {len(numbers)} frames for {grid.frames or 'no'} latent ones")
    try:
        return Clip((first, *(_decode(tensors[f"frame.{n}"]) for n in range(1, len(numbers)))), header["rate"], numbers)
    except ConceptlensError as error:
        raise ValueError(str(error)) from error


def _check_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} {value!r:.40} is no whole number from {low} to {high}")


def _check_sizes(name: str, value: object) -> None:
    """Raises a ValueError for a number that nothing in a record can have."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_sizes(name, part)
    if isinstance(value, (int, float)) and not abs(value) < _LARGEST:
        raise ValueError(f"its {name} have the number {value!r:.40}")


_PLURAL = {"key": "keys", "value": "values", "query": "queries", "hidden": "rows"}


def _layers(tensors: Mapping[str, Tensor], call: CallRecord, scales: Mapping[str, object]) -> tuple[LayerRecord, ...]:
    """The layers of one transformer call; `scales` are of cross-attention layers, by their number."""
    numbers = sorted({int(name.split(".")[0]) for name in tensors if name[0].isdigit() and "/" not in name})
    if not any(name.endswith((".key", ".hidden", ".query")) for name in tensors):
        raise ValueError("it has no keys")
    layers = []
    for number in numbers:
        _check_whole("layer", number, 0, _MOST_BLOCKS)
        parts = {part: tensors[f"{number}.{part}"] for part in _AXES if f"{number}.{part}" in tensors}
        for part, tensor in parts.items():
            if tensor.ndim != _AXES[part] or not tensor.is_floating_point():
                raise ValueError(f"layer {number} has a {part} of shape {tuple(tensor.shape)} and {tensor.dtype}")
        if "out" in parts and parts["out"].shape[1] < call.grid.tokens:
            raise ValueError(f"layer {number} has {parts['out'].shape[1]} rows for {call.grid.tokens} patches")
        layers.append(_layer(number, call, parts, scales.get(str(number))))
    return tuple(layers)


def _layer(number: int, call: CallRecord, parts: Mapping[str, Tensor], scale: object) -> LayerRecord:
    """One layer, of the kind that its parts tell."""
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ValueError(f"layer {number} has the scale {scale!r:.40}, which is no number above 0")
        _check_parts(number, parts, CrossLayer, {"query"})
        if parts["query"].shape[2] > call.grid.tokens:
            raise ValueError(f"layer {number} has {parts['query'].shape[2]} queries for {call.grid.tokens} patches")
        return CrossLayer(number, call, parts["query"], float(scale), parts.get("image_key"))
    if "hidden" in parts:
        _check_parts(number, parts, EnteredLayer, {"hidden"})
        return EnteredLayer(number, call, parts["hidden"], parts.get("out"))
    _check_parts(number, parts, StreamLayer, {"key", "value"})
    return StreamLayer(number, call, parts["key"], parts["value"], parts.get("out"), parts.get("query"))


def _check_parts(number: int, parts: Mapping[str, Tensor], kind: type[LayerRecord], needed: set[str]) -> None:
    """Raises a ValueError for a layer that lacks a part, has one of another kind of layer, or another batch."""
    if not needed <= parts.keys():
        raise ValueError(f"layer {number} lacks its {' or its '.join(_PLURAL[name] for name in sorted(needed))}")
    foreign = sorted(parts.keys() - set(kind.parts))
    if foreign:
        raise ValueError(f"layer {number} has a {foreign[0]}, which a {kind.__name__} has not")
    if len({len(tensor) for tensor in parts.values()}) > 1:
        raise ValueError(f"the parts of layer {number} have batches of different sizes")


def _decode(tensor: Tensor) -> Image.Image:
    return Image.open(io.BytesIO(tensor.cpu().numpy().tobytes()), formats=["PNG"]).convert("RGB")


def _encode(image: Image.Image) -> Tensor:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return torch.from_numpy(np.frombuffer(buffer.getvalue(), np.uint8).copy())
