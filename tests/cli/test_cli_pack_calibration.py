"""`tersenet pack --calibration`: steps are those of the least weighted error, found here by trying all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tersenet import artifact
from tersenet.cli import main
from tersenet.flow.packing import pack, unpack
from tersenet.flow.tensor_coding import Precision
from tersenet.train.gradients import fisher

ROWS, COLUMNS = 48, 400


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weight_and_importance() -> tuple[torch.Tensor, torch.Tensor]:
    """Importances over six decades; the larger the weight, the less important, so that the best steps are others."""
    weight = drawn(0, ROWS, COLUMNS)
    return weight, torch.exp(2 * drawn(1, ROWS, COLUMNS) - 2 * weight.abs() + 1.5 * drawn(2, ROWS, 1))


def packed(weight: torch.Tensor, importance: torch.Tensor | None, folder: Path, **precision: float) -> torch.Tensor:
    save_file({"w": weight}, folder / "in.safetensors")
    calibration = None
    if importance is not None:
        calibration = folder / "importances.safetensors"
        save_file({"w": importance}, calibration)
    pack(folder / "in.safetensors", folder / "a.terse", Precision(**precision), calibration=calibration, threads=1)  # type: ignore[arg-type]
    unpack(folder / "a.terse", folder / "out.safetensors", threads=1)
    return load_file(folder / "out.safetensors")["w"]


def cost(back: torch.Tensor, weight: torch.Tensor, importance: torch.Tensor) -> np.ndarray:
    """Σ f·(ŵ − w)² of each row."""
    return (importance.double() * (back.double() - weight.double()).square()).reshape(len(weight), -1).sum(1).numpy()


@pytest.mark.parametrize("bits", [2, 4])
def test_bits_have_the_least_weighted_error_of_all_steps_tried(tmp_path: Path, bits: int) -> None:
    weight, importance = weight_and_importance()
    found = cost(packed(weight, importance, tmp_path, bits=bits), weight, importance)
    half, w, f = 2 ** (bits - 1), weight.double().numpy(), importance.double().numpy()
    widest = np.maximum(w.max(1) / (half - 1), -w.min(1) / half)[:, None]
    tried = [
        (f * (np.rint(np.clip(w / step, -half, half - 1)) * step - w) ** 2).sum(1)
        for step in (widest * count / 40 for count in range(1, 41))
    ]
    best = np.min(tried, axis=0)
    assert (found >= best * (1 - 1e-4)).all()
    assert found.sum() <= 1.02 * best.sum()  # the search skips a valley beside the main one now and then
    plain = cost(packed(weight, None, tmp_path, bits=bits), weight, importance)
    assert found.sum() < 0.9 * plain.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rmse", [0.02, 0.2])
def test_rmse_is_met_by_the_largest_step_within_the_weighted_error(
    tmp_path: Path, dtype: torch.dtype, rmse: float
) -> None:
    weight, importance = weight_and_importance()
    weight = weight.to(dtype)
    back = packed(weight, importance, tmp_path, rmse=rmse)
    norm = (importance.double() * weight.double().square()).sum()
    error = float(np.sqrt(cost(back, weight, importance).sum() / float(norm)))
    assert (0.97 if dtype == torch.bfloat16 else 0.99) * rmse < error <= rmse
    steps = artifact.read(tmp_path / "a.terse").tensors["w"].tables["codebook"]
    if dtype == torch.float32:
        assert steps == pytest.approx(largest_step(weight, importance, rmse), rel=2e-3)
        assert steps != pytest.approx(largest_step(weight, torch.ones(1), rmse), rel=0.02)


def largest_step(weight: torch.Tensor, importance: torch.Tensor, rmse: float) -> float:
    """With this weighted error, by bisection."""
    norm = float((importance.double() * weight.double().square()).sum())
    low, high = 1e-6, 100.0
    for _ in range(60):
        step = (low * high) ** 0.5
        error = (cost((weight.double() / step).round() * step, weight, importance).sum() / norm) ** 0.5
        low, high = (step, high) if error <= rmse else (low, step)
    return low


@pytest.mark.parametrize("precision", [{"bits": 3}, {"rmse": 0.1}])
def test_only_proportions_count(tmp_path: Path, precision: dict[str, float]) -> None:
    weight, importance = weight_and_importance()
    plain = packed(weight, None, tmp_path, **precision)
    assert torch.equal(packed(weight, torch.full((1,), 7.0), tmp_path, **precision), plain)
    weighted = packed(weight, importance, tmp_path, **precision)
    assert torch.equal(packed(weight, importance.double() * 2.0**-90, tmp_path, **precision), weighted)
    assert not torch.equal(weighted, plain)


def test_importances_broadcast_to_inputs_and_outputs_of_convolutions(tmp_path: Path) -> None:
    weight = drawn(3, 40, 6, 3, 3)
    for shape in ((40, 1, 1, 1), (6, 1, 1), (3,)):
        importance = torch.exp(drawn(4, *shape))
        whole = importance.expand(weight.shape).clone()
        for precision in ({"bits": 3}, {"rmse": 0.1}):
            first, second = (packed(weight, given, tmp_path, **precision) for given in (importance, whole))
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_files_of_numpy_are_read_as_calibration_and_as_weights(tmp_path: Path) -> None:
    weight, importance = weight_and_importance()
    back = packed(weight, importance, tmp_path, bits=4)
    np.savez(tmp_path / "importances.npz", w=importance.numpy())
    np.savez(tmp_path / "in.npz", w=weight.numpy())
    arguments = ["pack", str(tmp_path / "in.npz"), str(tmp_path / "b.terse"), "--bits", "4"]
    assert main([*arguments, "--calibration", str(tmp_path / "importances.npz")]) == 0
    assert main(["unpack", str(tmp_path / "b.terse"), str(tmp_path / "b.safetensors")]) == 0
    assert torch.equal(load_file(tmp_path / "b.safetensors")["w"], back)


def test_what_is_not_rounded_needs_no_importance_but_may_have_one(tmp_path: Path) -> None:
    weight, importance = weight_and_importance()
    state = {"w": weight, "b": drawn(5, 7), "n": torch.ones(3, 3, dtype=torch.int64)}
    save_file(state, tmp_path / "in.safetensors")
    save_file({"w": importance, "b": torch.ones(7)}, tmp_path / "f.safetensors")
    pack(tmp_path / "in.safetensors", tmp_path / "a.terse", Precision(bits=4), calibration=tmp_path / "f.safetensors")
    unpack(tmp_path / "a.terse", tmp_path / "out.safetensors")
    back = load_file(tmp_path / "out.safetensors")
    assert torch.equal(back["b"], state["b"]) and torch.equal(back["n"], state["n"])


def test_a_file_of_fisher_diagonals_as_the_documents_make_it(tmp_path: Path) -> None:
    """Of a linear model under squared error, E g² of weight (i, j) is 4·E r_i²x_j²."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 3), drawn(6, 40, 5), drawn(7, 40, 3)
    batches = [((x[i : i + 1],), y[i : i + 1]) for i in range(40)]
    names, weights = zip(*model.named_parameters(), strict=True)
    found = fisher(model, weights, batches, lambda model, batch: (model(*batch[0]) - batch[1]).square().sum())
    save_file(dict(zip(names, found, strict=True)), tmp_path / "fisher.safetensors")
    residuals = (model(x) - y).detach()
    expected = 4 * (residuals.square()[:, :, None] * x.square()[:, None]).mean(0)
    torch.testing.assert_close(load_file(tmp_path / "fisher.safetensors")["weight"], expected)
    save_file(model.state_dict(), tmp_path / "in.safetensors")
    arguments = [str(tmp_path / name) for name in ("in.safetensors", "a.terse")]
    assert main(["pack", *arguments, "--bits", "4", "--calibration", str(tmp_path / "fisher.safetensors")]) == 0


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, out = tmp_path / "in.safetensors", tmp_path / "a.terse"
    save_file({"w": drawn(0, 40, 50), "v": drawn(1, 4, 4), "b": drawn(2, 4)}, good)
    right = {"w": torch.ones(50), "v": torch.ones(4, 4)}
    for number, (changed, words) in enumerate((
        ({"w": torch.ones(40)}, "'w' is of shape [40], which does not broadcast to the tensor's [40, 50]"),
        ({"w": torch.ones(1, 40, 50)}, "[1, 40, 50]"),
        ({"v": -right["v"]}, "'v' holds negative"),
        ({"v": torch.full((4, 4), float("nan"))}, "'v' holds NaN"),
        ({"v": torch.full((4, 4), float("inf"))}, "'v' holds NaN, infinity"),
        ({"v": torch.zeros(4, 4)}, "'v' is 0 throughout"),
        ({"b": torch.ones(5)}, "'b' is of shape [5]"),
        ({"x": torch.ones(4)}, "'x' is no tensor of"),
    )):  # fmt: skip
        file = tmp_path / f"{number}.safetensors"
        save_file(right | changed, file)
        mistake(["pack", str(good), str(out), "--bits", "4", "--calibration", str(file)], words, capsys)
    save_file({"b": torch.ones(4)}, tmp_path / "few.safetensors")
    few = ["--calibration", str(tmp_path / "few.safetensors")]
    (tmp_path / "bad.npz").write_bytes(b"no such thing")
    for arguments, words in (
        (["--rmse", "0.1", *few], "lacks importances of 'v' and 1 more"),
        (few, "--bits or --rmse"),
        (["--bits", "4", "--calibration", str(tmp_path / "none.safetensors")], "no such file"),
        (["--bits", "4", "--calibration", str(tmp_path / "bad.npz")], "no readable .npz"),
    ):
        mistake(["pack", str(good), str(out), *arguments], words, capsys)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def mistake(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2, arguments
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1, error
