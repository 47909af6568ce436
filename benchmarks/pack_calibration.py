"""What `tersenet pack --calibration` gives: a digits net packed with and without importances, and what it then answers.

    python benchmarks/pack_calibration.py [--seed 0] [--epochs 30]

LeNet-300-100 for scikit-learn's 8×8 digits is trained in full precision and packed as a state dict. Two files of
importances are made as anybody could make them for a net that was trained elsewhere: the mean squared inputs of each
layer, from forward passes alone; and the diagonal Fisher information, from a backward pass for each of 512 training
examples with its own label. Biases stay as they are, as always. Shown, on the test data: by how much the answers differ
from those of the dense net, mean Kullback–Leibler divergence, and the error.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line sets it

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tersenet.core.recipe import DataSpec, ModelSpec, Runtime
from tersenet.core.training import Training
from tersenet.data import Splits, load_data
from tersenet.flow.context import fabric_for
from tersenet.flow.packing import pack, unpack
from tersenet.flow.tensor_coding import Precision
from tersenet.models import build
from tersenet.train.gradients import fisher
from tersenet.train.loop import fit

EXAMPLES = 512
BITS, RMSE = (2, 3, 4), (0.6, 0.4, 0.3, 0.2, 0.1)
PRECISIONS = (*(Precision(bits=bits) for bits in BITS), *(Precision(rmse=rmse) for rmse in RMSE))


def squared_inputs(model: nn.Module, splits: Splits) -> dict[str, torch.Tensor]:
    """Of each linear layer, the mean of each input's square, [inputs]."""
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            keep = lambda _, args, name=name: found.update({f"{name}.weight": args[0].detach().square().mean(0)})  # noqa: E731
            module.register_forward_pre_hook(keep)
    model(*next(splits.train.batches(EXAMPLES)).inputs)
    return found


def fisher_diagonal(model: nn.Module, splits: Splits) -> dict[str, torch.Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    batch = next(splits.train.batches(EXAMPLES))
    assert batch.target is not None
    examples = [((batch.inputs[0][i : i + 1],), batch.target[i : i + 1]) for i in range(EXAMPLES)]
    found = fisher(model, weights, examples, lambda model, e: nn.functional.cross_entropy(model(*e[0]), e[1]))
    return dict(zip(names, found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    splits = load_data(DataSpec(path="digits", validation=0.15))
    spec = ModelSpec(name="lenet_300_100", kwargs={"inputs": 64})
    model = build(spec, options.seed)
    plan = Training(epochs=options.epochs, batch_size=32, optimizer="sgd", lr=0.05, l2=5e-4)
    fit(model, splits.train, plan, fabric_for(Runtime(accelerator="cpu")), seed=options.seed)

    assert splits.test is not None
    (batch,) = splits.test.batches(len(splits.test))
    dense = model.eval()(*batch.inputs).detach().log_softmax(1)

    def shown(state: dict[str, torch.Tensor]) -> str:
        fresh = build(spec, options.seed)
        fresh.load_state_dict(state)
        answers = fresh.eval()(*batch.inputs).detach().log_softmax(1)
        divergence = float(nn.functional.kl_div(answers, dense, reduction="batchmean", log_target=True))
        return f"{1e3 * divergence:.2f} | {100 * float((answers.argmax(1) != batch.target).float().mean()):.2f} %"

    print(f"seed {options.seed}, {options.epochs} epochs, dense: {shown(model.state_dict())}\n")
    print("| | importances | bytes | divergence, millinats | error |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, target, back = (folder / name for name in ("in.safetensors", "a.terse", "out.safetensors"))
        save_file(model.state_dict(), source)
        importances = {"none": None}
        for name, measured in (("squared inputs", squared_inputs), ("Fisher", fisher_diagonal)):
            importances[name] = folder / f"{name}.safetensors"
            save_file(measured(model, splits), importances[name])
        for precision in PRECISIONS:
            asked = " ".join(f"--{key} {value}" for key, value in precision.to_dict().items())
            for name, file in importances.items():
                packed = pack(source, target, precision, calibration=file, threads=1)
                unpack(target, back, threads=1)
                print(f"| `{asked}` | {name} | {packed.bytes:,} | {shown(load_file(back))} |", flush=True)


if __name__ == "__main__":
    main()
