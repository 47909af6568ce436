"""State dicts on disk, tensor by tensor: safetensors (one, or several that an index names), PyTorch's, NumPy's."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tersenet.core.disk import replace_file, why
from tersenet.core.errors import ModelError
from tersenet.core.factory import reason
from tersenet.forms.tables import dtype_name

INDEX = ".safetensors.index.json"
PICKLED = (".pt", ".pth", ".bin")
ARRAYS = ".npz"
MOST_HEADER = 100 << 20
"""Bytes; what the safetensors library allows."""

SAFE = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "complex64": "C64",
}  # fmt: skip
"""What the safetensors format calls torch's types."""


class StateDict:
    """The tensors of `path`, of which none is read before it is asked for.

    names: in the order of the file. aliases: further names of tensors that are shared (PyTorch files only).
    metadata: what a safetensors file says of itself. key: tells whether the input is still the same.
    Raises ModelError, in one sentence, for what is no state dict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.aliases: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self._open = ExitStack()
        self._where: dict[str, Any] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        files = _files(path)
        try:
            self.key = [_fingerprint(file) for file in files]
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {why(error)}") from None
        for file in files:
            if file.suffix in PICKLED:
                self._add_pickled(file)
            elif file.suffix == ARRAYS:
                self._add_arrays(file)
            else:
                self._add_safe(file)
        if not self.names:
            raise ModelError(f"{path}: holds no tensor")

    def __enter__(self) -> StateDict:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def described(self, name: str) -> torch.Tensor:
        """Type and shape of a tensor: one without contents, on the device "meta"."""
        if name in self._tensors or isinstance(self._where[name], np.lib.npyio.NpzFile):
            return self[name].to("meta")
        header = self._where[name].get_slice(name)
        dtype = next((torch_name for torch_name, safe in SAFE.items() if safe == header.get_dtype()), None)
        return torch.empty(header.get_shape(), dtype=getattr(torch, dtype), device="meta") if dtype else self[name]

    def __getitem__(self, name: str) -> torch.Tensor:
        try:
            found = self._tensors[name] if name in self._tensors else _read(self._where[name], name)
            dtype_name(found.dtype)
        except ModelError as error:
            raise ModelError(f"{self.path}: '{name}': {error}") from None
        except Exception as error:  # of types this library or torch does not have
            raise ModelError(f"{self.path}: '{name}' cannot be read: {reason(error)}") from None
        return found

    def bytes(self) -> int:
        """Of all tensors, as they are stored; for progress."""
        return sum(size for _, size, _ in self.key)

    def _add_safe(self, file: Path) -> None:
        from safetensors import safe_open

        try:
            opened = self._open.enter_context(safe_open(file, framework="pt"))
            self.metadata |= opened.metadata() or {}
            names = list(opened.offset_keys())
        except Exception as error:  # whatever reading a foreign file raises
            raise ModelError(f"{file}: is no readable safetensors file: {reason(error)}") from None
        for name in names:
            if name in self._where:
                raise ModelError(f"{file}: '{name}' is in another file of {self.path} too")
            self._where[name] = opened
        self.names += names

    def _add_arrays(self, file: Path) -> None:
        try:
            opened = self._open.enter_context(np.load(file))
            self._where |= dict.fromkeys(opened.files, opened)
        except Exception as error:  # whatever reading a foreign file raises
            raise ModelError(f"{file}: is no readable .npz file: {reason(error)}") from None
        self.names += opened.files

    def _add_pickled(self, file: Path) -> None:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # whatever reading a foreign file raises
            raise ModelError(f"{file}: cannot be read as a state dict: {reason(error)}") from None
        for wrapper in ("state_dict", "model"):
            if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
                state = state[wrapper]
        if not isinstance(state, dict):
            raise ModelError(f"{file}: holds a {type(state).__name__}, not a state dict")
        first: dict[Any, str] = {}
        for name, tensor in state.items():
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
                raise ModelError(f"{file}: '{name}' is no dense tensor; save a plain state dict")
            same = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
            if tensor.numel() and first.setdefault((*same, tensor.dtype), str(name)) != name:
                self.aliases[str(name)] = first[(*same, tensor.dtype)]
            else:
                self.names.append(str(name))
                self._tensors[str(name)] = tensor.detach()


def _read(file: Any, name: str) -> torch.Tensor:
    return torch.from_numpy(file[name]) if isinstance(file, np.lib.npyio.NpzFile) else file.get_tensor(name)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob(f"*{INDEX}")) or sorted(path.glob("*.safetensors"))
        if len(found) > 1 and found[0].name.endswith(INDEX):
            raise ModelError(f"{path}: holds {len(found)} indices; give one of them, as {found[0].name}")
        if not found:
            raise ModelError(f"{path}: is a folder without a .safetensors file")
        return [part for file in found for part in _files(file)]
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.name.endswith(INDEX):
        return _shards(path)
    if path.suffix not in (".safetensors", ARRAYS, *PICKLED):
        known = f"neither .safetensors, nor {INDEX}, nor {ARRAYS}, nor a state dict as {', '.join(PICKLED)}"
        raise ModelError(f"{path}: is {known}")
    return [path]


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [index.parent / name for name in names]
        inside = all(Path(name).name == name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: is no index of safetensors files: {reason(error)}") from None
    if not inside:
        raise ModelError(f"{index}: names a file in another folder")
    for shard in shards:
        if not shard.is_file():
            raise ModelError(f"{index}: names {shard.name}, which is not there")
    return shards


def _fingerprint(file: Path) -> tuple[str, int, str]:
    """Name, size, and a digest of the file's first megabyte and of when it was changed."""
    status = file.stat()
    with file.open("rb") as opened:
        digest = hashlib.blake2b(opened.read(1 << 20) + str(status.st_mtime_ns).encode(), digest_size=16)
    return file.name, status.st_size, digest.hexdigest()


def write_safetensors(
    path: Path,
    layout: dict[str, tuple[str, tuple[int, ...], int]],
    tensors: Iterable[tuple[str, torch.Tensor]],
    metadata: dict[str, str],
) -> None:
    """A safetensors file, written tensor by tensor and put in its place in one step.

    layout: name → (torch's type, shape, bytes), in the order in which `tensors` gives them.
    Raises ModelError for a type that safetensors lacks, or if the disk refuses.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape, size) in layout.items():
        if dtype not in SAFE:
            raise ModelError(f"{path}: '{name}' is of type {dtype}, which safetensors has no word for")
        header[name] = {"dtype": SAFE[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_HEADER:
        raise ModelError(f"{path}: names take more than the {MOST_HEADER} bytes that safetensors allows")
    replace_file(path, _parts(struct.pack("<Q", len(text)) + text, tensors), ModelError)


def _parts(head: bytes, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[bytes | memoryview]:
    yield head
    for _, tensor in tensors:
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
