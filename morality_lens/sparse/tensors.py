"""Tensors of a file, read without torch."""

import json
import math
from pathlib import Path

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "BOOL": "?"}
"""Types of safetensors that are read, as numpy names them; numpy has no bfloat16."""


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """The arrays in a ``.safetensors`` or ``.npz`` file; bfloat16 as float32. Nothing in it is run.

    Raises:
        ValueError: another kind of file, a type that is not read, or places outside the file.
    """
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    raw = np.memmap(file, dtype=np.uint8, mode="r")
    size = int.from_bytes(raw[:8].tobytes(), "little") if len(raw) >= 8 else -1
    if not 0 < size <= len(raw) - 8:
        raise ValueError(f"{file} is no file of safetensors.")
    header = json.loads(raw[8 : 8 + size].tobytes())
    return {
        name: _array(file, name, raw[8 + size :], told)
        for name, told in header.items()
        if name != "__metadata__"
    }


def _array(file: Path, name: str, body: np.ndarray, told: dict) -> np.ndarray:
    """One array of a file of safetensors."""
    kind, shape = told["dtype"], tuple(told["shape"])
    start, stop = told["data_offsets"]
    if kind not in TYPES:
        raise ValueError(f"{file}: {name} has the type {kind}; {', '.join(TYPES)} are read.")
    dtype = np.dtype(TYPES[kind])
    if not 0 <= start <= stop <= len(body) or stop - start != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{file}: {name} lies outside the file, or has another size than its shape.")
    values = np.frombuffer(body[start:stop].tobytes(), dtype).reshape(shape)
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
