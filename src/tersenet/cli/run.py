"""`tersenet run FILE INPUT…`: what the model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tersenet.cli.options import FilePath, Json, print_json
from tersenet.core.disk import why
from tersenet.core.errors import DataError

NAME = "run"


def command(
    file: FilePath,
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT…", help=".npy or .npz, batch first, or one image", show_default=False)
    ],
    runtime: Annotated[str, typer.Option(help="torch, onnx, openvino or kernels")] = "torch",
    out: Annotated[Path | None, typer.Option(help="an .npz to write the outputs to")] = None,
    recipe: Annotated[Path | None, typer.Option(help="builds the model of a file that cannot say how")] = None,
    json: Json = False,
) -> None:
    """Compute with the file's model in a runtime. One INPUT for each input of the model; an .npz may hold several.

    An image is divided by 255 and otherwise left as it is: data that are normalized come as .npy.
    """
    import numpy as np

    from tersenet.flow.deployed import deploy

    arrays = [array for path in inputs for array in _arrays(path)]
    shapes = ["x".join(map(str, one.shape[1:])) + f":{one.dtype.name}" for one in arrays]
    if flat := [one.shape for one in arrays if one.ndim < 2]:
        raise DataError(f"an input of shape {list(flat[0])} has one axis; the first is the batch, so it takes two")
    session = deploy(file, runtime, shapes=shapes, recipe=recipe)
    found = session(*arrays)
    outputs = found if isinstance(found, tuple) else (found,)
    if out is not None:
        try:
            np.savez(out, *outputs)
        except OSError as error:
            raise DataError(f"{out}: cannot be written: {why(error)}") from None
    if json:
        plain = [one.tolist() for one in outputs]
        print_json({"file": str(file), "runtime": runtime, "outputs": plain, "notes": session.notes})
        return
    for one in outputs:
        print(f"{'×'.join(map(str, one.shape))} {one.dtype}")
        if one.ndim == 2:
            for row in one[:10]:
                best = np.argsort(row)[::-1][:5]
                print("  " + "  ".join(f"{place}: {row[place]:.4g}" for place in best))
    for note in session.notes:
        print(f"note: {note}")


def _arrays(path: Path) -> list[Any]:
    import numpy as np

    try:
        if path.suffix == ".npz":
            with np.load(path) as held:
                found = [held[name] for name in held.files]
        elif path.suffix == ".npy":
            found = [np.load(path)]
        else:
            found = [_image(path)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is neither .npy, .npz nor an image: {error}") from None
    if not found:
        raise DataError(f"{path}: holds no array")
    if any(one.ndim == 0 for one in found):
        raise DataError(f"{path}: holds a single number; the first axis of an input is the batch")
    return found


def _image(path: Path) -> Any:
    """float32 [1, channels, height, width] in [0, 1]."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        held = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"), np.float32) / 255
    return held[None, None] if held.ndim == 2 else held.transpose(2, 0, 1)[None]
