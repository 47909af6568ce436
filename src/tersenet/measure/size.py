"""What the dense model takes on disk, as the yardstick for the compressed file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import zstandard
from torch import nn

ZSTD_LEVEL = 19


def dense_sizes(model: nn.Module) -> tuple[int, int]:
    """(bytes of the fp32 state dict as .safetensors, bytes of that file through zstd −19), of files really written.

    Floating-point entries of other precisions count as fp32; integers stay as they are; a shared parameter is
    written once. zstd runs on all cores, as its command line does; its output does not depend on how many there are.
    """
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="tersenet-") as folder:
        plain, squeezed = Path(folder, "dense.safetensors"), Path(folder, "dense.safetensors.zst")
        save_file(fp32_state(model), plain)
        with plain.open("rb") as source, squeezed.open("wb") as target:
            zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=-1).copy_stream(
                source, target, size=plain.stat().st_size
            )
        return plain.stat().st_size, squeezed.stat().st_size


def fp32_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with each tensor once, in fp32 where it is floating-point, on the CPU."""
    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue  # what `get_extra_state` returns is no tensor, and safetensors has no place for it
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        state[name] = (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().clone().contiguous()
    return state
