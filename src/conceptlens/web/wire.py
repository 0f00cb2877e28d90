"""Maps as bytes: a small JSON header, then arrays.

Four bytes hold the length of the header (little-endian). Then come the header in UTF-8, padded with blanks to a
multiple of four, and the arrays, each padded likewise. The header names each array: its type ("float16" or "uint8"),
shape, place in bytes after the header, and `low` and `scale`: a stored number n means low + scale * n. Whole numbers
below 256 ("index") travel as they are.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

MEDIA_TYPE = "application/vnd.conceptlens.maps"
_FLOAT16_TOP = 60000.0


def pack(content: Mapping[str, Any], arrays: Mapping[str, tuple[np.ndarray, str]]) -> bytes:
    """A header and arrays as bytes.

    Args:
        content: plain JSON values.
        arrays: values of any range, with the type in which each travels.
    """
    bodies, entries, place = [], {}, 0
    for name, (values, kind) in arrays.items():
        stored, low, scale = _STORED[kind](values)
        body = stored.tobytes()
        entries[name] = {
            "type": str(stored.dtype),
            "shape": list(values.shape),
            "at": place,
            "low": low,
            "scale": scale,
        }
        bodies.append(body + bytes(-len(body) % 4))
        place += len(bodies[-1])
    header = json.dumps({**content, "arrays": entries}, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 4)
    return b"".join([struct.pack("<I", len(header)), header, *bodies])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Float[np.ndarray, "..."]]]:
    """The header and the float32 values of the arrays: what the page does, in Python."""
    (length,) = struct.unpack("<I", data[:4])
    content = json.loads(data[4 : 4 + length])
    arrays = {}
    for name, entry in content.pop("arrays").items():
        kind = np.dtype("<f2" if entry["type"] == "float16" else np.uint8)
        stored = np.frombuffer(data, kind, int(np.prod(entry["shape"])), 4 + length + entry["at"])
        arrays[name] = (entry["low"] + entry["scale"] * stored.astype(np.float32)).reshape(entry["shape"])
    return content, arrays


def _as_half(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Raw similarities can exceed what float16 holds; they are scaled down then."""
    scale = max(1.0, float(np.abs(values).max(initial=0)) / _FLOAT16_TOP)
    return (values / scale).astype("<f2"), 0.0, scale


def _as_bytes(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    scale = (high - low) / 255 or 1.0
    return np.rint((values - low) / scale).astype(np.uint8), low, scale


def _as_index(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    return values.astype(np.uint8), 0.0, 1.0


_STORED = {"float16": _as_half, "uint8": _as_bytes, "index": _as_index}
