"""What lies in a member is what its name says: text, JSON, arrays or tensors.

Nothing here can run anything: no pickle is loaded, no YAML is built.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from speechbrain_ext.sharing.bundle.errors import BundleError, printable
from speechbrain_ext.sharing.bundle.manifest import strict_json

#: Arrays of ``scores/*.npz``, and the kinds of numbers or text that each may be.
SCORE_ARRAYS = {
    "labels": "b",
    "enroll": "iu",
    "test": "iu",
    "ids": "U",
    "scores": "f",
}
#: dtype of safetensors -> bytes of a number
_WIDTHS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
#: Those whose numbers are looked at: NumPy knows no bfloat16.
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
MAX_HEADER = 16 * 2**20
MAX_DIMENSIONS = 64
MAX_COUNT = 2**48
MAX_RECIPE = 2**20
#: Texts, lists and scores are read into memory as a whole, where they become larger.
MAX_TEXT = 64 * 2**20
MAX_ARRAYS = 512 * 2**20
_BLOCK = 2**26  # bytes of a tensor that are looked at together


def check_file(path: Path, name: str) -> None:
    """Refuse a file that is not what its name says.

    Arguments
    ---------
    path : Path
        Where it was written to.
    name : str
        Of the member.

    Raises
    ------
    BundleError
        Saying what it is.
    """
    check_size(name, path.stat().st_size)
    if name.endswith(".npz"):
        read_arrays(path.read_bytes(), name)
    elif name.endswith(".safetensors"):
        check_tensors(path, name)
    elif name.endswith(".json"):
        strict_json(path.read_bytes(), name)
    else:
        _check_text(path.read_bytes(), name)


def check_size(name: str, size: int) -> None:
    """Refuse a member that would fill the memory of whoever reads it.

    Arguments
    ---------
    name : str
        Of the member; tensors are read part by part, and may be larger.
    size : int
        In bytes, before anything is inflated.

    Raises
    ------
    BundleError
        Naming the member and the limit.
    """
    limit = MAX_ARRAYS if name.endswith(".npz") else MAX_TEXT
    if size > limit and not name.endswith(".safetensors"):
        raise BundleError(
            f"member '{printable(name)}' has {size:,} bytes; at most {limit:,} can be"
        )


def _check_text(data: bytes, name: str) -> None:
    if name.endswith(".yaml") and len(data) > MAX_RECIPE:
        raise BundleError(f"{printable(name)} has more than {MAX_RECIPE:,} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BundleError(f"{printable(name)} is no text in UTF-8") from None
    odd = next((c for c in text if c < " " and c not in "\n\r\t"), None)
    if odd is not None:
        raise BundleError(f"{printable(name)} holds the control character {odd!r}")


def read_arrays(data: bytes, name: str) -> dict[str, np.ndarray]:
    """Read a file of scores without `numpy.load`: stored arrays of known kinds only.

    Arguments
    ---------
    data : bytes
        As `speechbrain_ext.scoring.trials.write_scores` writes it.
    name : str
        For messages.

    Raises
    ------
    BundleError
        If an array is compressed (a bomb could hide), missing, unknown, of objects
        (a pickle) or cut off.
    """
    shown = printable(name)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if any(i.compress_type or i.file_size != i.compress_size for i in infos):
                raise BundleError(f"{shown}: its arrays must be stored, not compressed")
            names = sorted(info.filename for info in infos)
            if names != sorted(f"{key}.npy" for key in SCORE_ARRAYS):
                raise BundleError(
                    f"{shown}: must hold {', '.join(SCORE_ARRAYS)}, holds "
                    f"{printable(', '.join(names))}"
                )
            return {
                key: _array(archive.read(f"{key}.npy"), f"{shown}: {key}", kinds)
                for key, kinds in SCORE_ARRAYS.items()
            }
    except BundleError:
        raise
    except (ValueError, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"{shown}: no file of arrays: {printable(error)}") from None
    except (zipfile.BadZipFile, struct.error, KeyError, OverflowError) as error:
        raise BundleError(f"{shown}: no file of arrays: {printable(error)}") from None


def _array(data: bytes, where: str, kinds: str) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise BundleError(f"{where}: version {version} of the format is not known")
    try:
        shape, fortran, dtype = read(stream)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BundleError(
            f"{where}: its header is broken: {printable(error)}"
        ) from None
    if dtype.hasobject:
        raise BundleError(f"{where}: an array of objects is a pickle; it is not loaded")
    if dtype.kind not in kinds or len(shape) != 1 or fortran:
        raise BundleError(f"{where}: is {dtype} {printable(shape)}, not as scores are")
    size = math.prod(shape) * dtype.itemsize
    if size != len(data) - stream.tell():
        raise BundleError(
            f"{where}: declares {size:,} bytes, holds {len(data) - stream.tell():,}"
        )
    return np.frombuffer(data, dtype, offset=stream.tell())


def tensor_header(path: Path, name: str) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file; returns it and where the data begin.

    Raises
    ------
    BundleError
        If there is none.
    """
    with open(path, "rb") as stream:
        size = path.stat().st_size
        first = stream.read(8)
        length = int.from_bytes(first, "little") if len(first) == 8 else -1
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise BundleError(f"{printable(name)} is no safetensors file")
        header = strict_json(stream.read(length), name)
    if not isinstance(header, dict):
        raise BundleError(f"{printable(name)} is no safetensors file")
    return header, 8 + length


def check_tensors(path: Path, name: str) -> int:
    """Check a safetensors file: every byte belongs to one tensor, and is finite.

    Returns
    -------
    int
        Number of tensors.

    Raises
    ------
    BundleError
        Naming the tensor.
    """
    header, start = tensor_header(path, name)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise BundleError(f"{printable(name)}: its metadata must be texts")
    spans = []
    for key, tensor in header.items():
        try:
            dtype, shape = tensor["dtype"], tensor["shape"]
            low, high = tensor["data_offsets"]
            # Bounded, since the product of long numbers takes minutes.
            counts = len(shape) <= MAX_DIMENSIONS and all(
                type(n) is int and 0 <= n <= MAX_COUNT for n in (*shape, low, high)
            )
            wanted = math.prod(shape) * _WIDTHS[dtype] if counts else 0
        except (KeyError, TypeError, ValueError):
            counts, low, high, wanted, dtype = False, 0, 0, 1, ""
        if not counts or high - low != wanted:
            raise BundleError(
                f"{printable(name)}: tensor '{printable(key)}' does not fit its shape"
            )
        spans.append((low, high, key, dtype))
    position = 0
    for low, high, key, _ in sorted(spans):
        if low != position:
            raise BundleError(
                f"{printable(name)}: tensor '{printable(key)}' overlaps another, or "
                "there are bytes that no tensor holds"
            )
        position = high
    if start + position != path.stat().st_size:
        raise BundleError(f"{printable(name)}: is cut off, or longer than its tensors")
    _check_finite(path, start, spans, name)
    return len(spans)


def _check_finite(path: Path, start: int, spans: list[tuple], name: str) -> None:
    if path.stat().st_size == start:
        return
    # The rest of a mapped file must be whole numbers: bytes, then a view of a part.
    data = np.memmap(path, np.uint8, "r", start)
    for low, high, key, dtype in spans:
        if dtype in _FLOATS and high > low:
            for begin in range(low, high, _BLOCK):
                part = data[begin : min(begin + _BLOCK, high)].tobytes()
                if not np.isfinite(np.frombuffer(part, _FLOATS[dtype])).all():
                    raise BundleError(
                        f"{printable(name)}: tensor '{printable(key)}' holds NaN or Inf"
                    )


def texts_of(data: bytes, name: str) -> str:
    """All text in a member, to be searched; of weights their names and metadata.

    Arguments
    ---------
    data : bytes
        Of the member.
    name : str
        Of the member; it says how to read it.
    """
    if name.endswith(".npz"):
        ids = read_arrays(data, name)["ids"]
        return "\n".join(dict.fromkeys(ids.tolist()))
    if name.endswith(".safetensors"):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return json.dumps(header, ensure_ascii=False)
    return data.decode("utf-8", "replace")
