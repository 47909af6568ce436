"""What the same compressed weights take in the ways people know, beside their `.terse` file.

    python benchmarks/against_zip.py [FILE.terse] [--json]

The weights are those of the file, zeros and shared values and all; only the container differs. Without a file, the
one that `make demo` leaves is taken.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import zipfile
from pathlib import Path

import torch
import zstandard
from torch.nn.utils import prune

import tersenet


def saved(state: dict[str, torch.Tensor]) -> bytes:
    data = io.BytesIO()
    torch.save(state, data)
    return data.getvalue()


def zipped(data: bytes) -> int:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("model.pt", data)
    return len(target.getvalue())


def torch_pruned(model: torch.nn.Module) -> bytes:
    """As torch.nn.utils.prune keeps it: the weight and a mask of the same size."""
    for module in model.modules():
        if isinstance(getattr(module, "weight", None), torch.nn.Parameter) and module.weight.ndim > 1:
            prune.custom_from_mask(module, "weight", (module.weight != 0).float())
    return saved(model.state_dict())


def sizes(file: Path) -> dict[str, int]:
    model = tersenet.load(file)
    dense = saved({name: tensor.float() for name, tensor in model.state_dict().items()})
    masked = torch_pruned(tersenet.load(file))
    return {
        "torch.save": len(dense),
        "torch.save, zip -9": zipped(dense),
        "torch.save, zstd -19": len(zstandard.ZstdCompressor(level=19).compress(dense)),
        "torch.save, xz -9e": len(lzma.compress(dense, preset=9 | lzma.PRESET_EXTREME)),
        "torch.nn.utils.prune, torch.save": len(masked),
        "torch.nn.utils.prune, zip -9": zipped(masked),
        ".terse": file.stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("runs/demo/model.terse"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.file.exists():
        raise SystemExit(f"{arguments.file}: no such file; `make demo` makes it")
    found = sizes(arguments.file)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"the weights of {arguments.file}, stored as")
    for name, size in found.items():
        print(f"  {name:34} {size:>10,} bytes  {size / found['.terse']:6.1f}×")


if __name__ == "__main__":
    main()
