"""Image records as files: one safetensors file with a JSON header, readable without running anything."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptlens.errors import ImageError, one_line
from conceptlens.files import into_folder
from conceptlens.recipe import Recipe
from conceptlens.records import PARTS, CallRecord, ImageRecord, LayerRecord, TokenGrid

FORMAT = "conceptlens-record-1"


def save_record(record: ImageRecord, path: str | Path) -> Path:
    """Writes a record: tensors by layer and part, those of any further denoising step with its number in front.

    Raises:
        OutputError: when the file cannot be written.
    """
    target = Path(path)
    tensors: dict[str, Tensor] = {"image": _encode(record.image)}
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
        "prompt": record.prompt,
        "model": record.model_id,
        "recipe": record.recipe.to_dict(),
        "seed": record.seed,
        "steps": record.steps,
        "options": {k: v for k, v in record.options.items() if isinstance(v, (str, int, float, bool, type(None)))},
    }
    with into_folder(target.parent) as stage:
        try:
            save_file(tensors, stage / target.name, {"format": FORMAT, "header": json.dumps(header)})
        except SafetensorError as error:
            raise OSError(one_line(error)) from error
    return target


def load_record(path: str | Path, device: str | torch.device = "cpu") -> ImageRecord:
    """Reads a record.

    Raises:
        ImageError: for a file that is missing, damaged, or no record.
    """
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ImageError(
                    f"{path} is no record of conceptlens. Make one with: conceptlens read ... --record FILE."
                )
            header = json.loads(metadata["header"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        grid = TokenGrid(*header["grid"])
        settings = header.get("settings", {})
        layers: tuple[LayerRecord, ...] = ()
        for step in (header["step"], *header.get("further", ())):
            front = "" if step == header["step"] else f"{step}/"
            layers += _layers(tensors, front, step, grid, settings.get(str(step), {}))
        image = Image.open(io.BytesIO(tensors["image"].cpu().numpy().tobytes())).convert("RGB")
        recipe = Recipe().override(header["recipe"])
        told = (header["prompt"], header["model"], recipe, header["seed"])
        return ImageRecord(layers, grid, image, *told, header.get("steps", 0), header.get("options", {}))
    except FileNotFoundError as error:
        raise ImageError(f"no record at {path}. Check the path.") from error
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot read the record {path}: {one_line(error)}. Make it again.") from error


def _layers(
    tensors: dict[str, Tensor], front: str, step: int, grid: TokenGrid, settings: Mapping[str, Any]
) -> tuple[LayerRecord, ...]:
    """The layers of one transformer call, whose tensors' names start with `front`."""
    own = {name.removeprefix(front): t for name, t in tensors.items() if name.startswith(front)}
    arguments = {name[5:]: tensor for name, tensor in own.items() if name.startswith("call.")}
    call = CallRecord(step, grid, arguments, settings)
    if not any(name.endswith((".key", ".hidden")) for name in own):
        raise KeyError("key")
    numbers = sorted({int(name.split(".")[0]) for name in own if name[0].isdigit() and "/" not in name})
    return tuple(
        LayerRecord(layer=number, call=call, **{part: own.get(f"{number}.{part}") for part in PARTS})
        for number in numbers
    )


def _encode(image: Image.Image) -> Tensor:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return torch.from_numpy(np.frombuffer(buffer.getvalue(), np.uint8).copy())
