"""A whole run: what the file holds is what was measured, and what a user brings is compressed too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tersenet
from tersenet import artifact
from tersenet.core.errors import ArtifactError, DataError, GateError, ModelError, RecipeError
from tersenet.flow.gate import failures
from tersenet.flow.progress import Quiet
from tersenet.flow.promises import BrokenPromiseError, check_kept, promises
from tersenet.forms import Masked, attach, encode_model, match, plain_state

SMALL = {
    "train": {"epochs": 12, "batch_size": 32, "lr": 0.01},
    "stages": [
        {"method": "prune.magnitude", "sparsity": 0.8, "finetune": {"epochs": 4, "batch_size": 32, "lr": 0.005}},
        {"method": "quantize.share", "bits": 3, "finetune": {"epochs": 2, "batch_size": 32, "lr": 0.001}},
    ],
}


def blobs(n: int = 400, features: int = 12, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Well separated clusters: a net that learns nothing stands out."""
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(classes, features, generator=generator)
    y = torch.arange(n) % classes
    return centers[y] + torch.randn(n, features, generator=generator), y


def three(tensors: tuple[torch.Tensor, ...]) -> dict[str, tuple[torch.Tensor, ...]]:
    cut = [tuple(tensor[place] for tensor in tensors) for place in (slice(0, 240), slice(240, 320), slice(320, None))]
    return dict(zip(("train", "validation", "test"), cut, strict=True))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tersenet.api.Outcome:
    return tersenet.compress(mlp(), SMALL, three(blobs()), out=tmp_path_factory.mktemp("run"))


def test_the_file_is_the_model_that_was_measured(outcome: tersenet.api.Outcome) -> None:
    data = three(blobs())
    again = tersenet.load(outcome.file, model=mlp())
    x, y = data["test"]
    assert torch.equal(again(x), outcome.model(x))
    error = float((again(x).argmax(1) != y).float().mean())
    figures = outcome.record.figures
    assert figures.test_error_file == pytest.approx(error, abs=1e-12)
    assert error < 0.1
    assert figures.examples_test == len(y)


def test_bytes_are_those_on_disk_and_sum_up(outcome: tersenet.api.Outcome) -> None:
    record, size = outcome.record, outcome.file.stat().st_size
    assert record.figures.file_bytes == size
    assert record.bytes_file_header + sum(row.bytes for row in record.tensors) == size
    parameters = sum(p.numel() for p in mlp().parameters())
    assert record.figures.ratio == pytest.approx(4 * parameters / size)
    assert record.figures.dense_bytes > 4 * parameters


def test_what_the_stages_promised_is_in_the_file(outcome: tersenet.api.Outcome) -> None:
    weights = plain_state(tersenet.load(outcome.file, model=mlp()))
    for name in ("0.weight", "3.weight"):
        kept = int(torch.count_nonzero(weights[name]))
        assert kept == round(0.2 * weights[name].numel())
        assert weights[name].unique().numel() <= 2**3 + 1
    rows = {row.name: row for row in outcome.record.tensors}
    assert rows["0.weight"].nonzero == int(torch.count_nonzero(weights["0.weight"]))
    assert [row.name for row in outcome.record.stages] == ["dense", "prune.magnitude", "quantize.share"]


def test_saving_the_loaded_model_again_loses_nothing(outcome: tersenet.api.Outcome, tmp_path: Path) -> None:
    loaded = tersenet.load(outcome.file, model=mlp())
    tersenet.save(loaded, tmp_path / "again.terse")
    assert (tmp_path / "again.terse").stat().st_size < 1.1 * outcome.file.stat().st_size
    again = tersenet.load(tmp_path / "again.terse", model=mlp())
    for (name, ours), theirs in zip(plain_state(loaded).items(), plain_state(again).values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_page_is_written(outcome: tersenet.api.Outcome) -> None:
    page = (outcome.folder / "report.html").read_text()
    assert f"{outcome.record.figures.file_bytes:,}" in page


class TwoInputs(nn.Module):
    """Shared weights, a buffer, two inputs, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 32), nn.Linear(6, 32)
        self.right.weight = self.left.weight
        self.register_buffer("offset", torch.full((32,), 0.1))
        self.out = nn.Linear(32, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.left(a) + self.right(b) + self.offset))


def test_a_users_model_with_shared_weights_buffers_and_two_inputs(tmp_path: Path) -> None:
    x, y = blobs()
    parts = three((x[:, :6], x[:, 6:], y))
    loaders = {name: DataLoader(TensorDataset(*part), batch_size=32) for name, part in parts.items()}
    torch.manual_seed(0)
    outcome = tersenet.compress(TwoInputs(), SMALL, loaders, out=tmp_path)
    assert outcome.record.figures.test_error_file is not None
    assert outcome.record.figures.test_error_file < 0.25
    loaded = tersenet.load(outcome.file, model=TwoInputs())
    assert loaded.left.weight is loaded.right.weight
    a, b, _ = parts["test"]
    assert torch.equal(loaded(a, b), outcome.model(a, b))
    assert torch.equal(loaded.offset.half(), torch.full((32,), 0.1).half())


def test_a_trained_model_needs_no_training_data_in_the_recipe(tmp_path: Path) -> None:
    recipe = {"stages": [{"method": "quantize.share", "bits": 8}]}
    model = mlp()
    before = model[0].weight.detach().clone()
    outcome = tersenet.compress(model, recipe, three(blobs()), out=tmp_path)
    torch.testing.assert_close(outcome.model[0].weight, before, atol=0.02, rtol=0)


def test_regression_has_a_loss_and_no_error(tmp_path: Path) -> None:
    x, _ = blobs()
    data = three((x, x[:, :2].clone()))
    recipe = {
        "train": {"epochs": 5, "objective": "mse"},
        "stages": [{"method": "quantize.share", "bits": 4}],
    }
    torch.manual_seed(0)
    figures = tersenet.compress(nn.Linear(12, 2), recipe, data, out=tmp_path).record.figures
    assert figures.test_error_file is None
    assert figures.test_loss_file is not None


def test_the_gate_fails_after_the_file_is_written(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="allowed 10"):
        tersenet.compress(mlp(), {**SMALL, "gate": {"max_bytes": 10}}, three(blobs()), out=tmp_path)
    assert (tmp_path / "model.terse").exists()


def test_gate_limits_are_checked_one_by_one(outcome: tersenet.api.Outcome) -> None:
    from tersenet.core.recipe import Gate

    size, ratio = outcome.record.figures.file_bytes, outcome.record.figures.ratio
    assert failures(Gate(max_bytes=size, min_ratio=ratio, max_error=1.0, max_error_increase=1.0), outcome.record) == []
    assert len(failures(Gate(max_bytes=size - 1, min_ratio=ratio + 1), outcome.record)) == 2
    worse = outcome.record.model_copy(
        update={"figures": outcome.record.figures.model_copy(update={"validation_error_file": 0.5})}
    )
    assert len(failures(Gate(max_error=0.4, max_error_increase=0.1), worse)) == 2


def test_mistakes_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    data = three(blobs())
    with pytest.raises(RecipeError, match="matches no"):
        tersenet.compress(mlp(), {"stages": [{"method": "quantize.share", "targets": ["fc9"]}]}, data, out=tmp_path)
    backwards = {"stages": SMALL["stages"][::-1]}
    with pytest.raises(RecipeError, match="cannot follow"):
        tersenet.compress(mlp(), backwards, data, out=tmp_path)
    with pytest.raises(DataError, match="shape"):
        tersenet.compress(nn.Linear(13, 4), SMALL, data, out=tmp_path)
    broken = mlp()
    broken[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"0\.weight"):
        tersenet.compress(broken, SMALL, data, out=tmp_path)
    assert not (tmp_path / "model.terse").exists()


def test_a_users_model_loads_without_its_source(outcome: tersenet.api.Outcome) -> None:
    alone, inputs = tersenet.load(outcome.file), torch.randn(5, 12)
    torch.testing.assert_close(alone(inputs), outcome.model.cpu()(inputs), rtol=0, atol=0)


def test_loading_says_what_it_needs(outcome: tersenet.api.Outcome, tmp_path: Path) -> None:
    tersenet.save(outcome.model, tmp_path / "bare.terse")  # without an example there are no operators in the file
    with pytest.raises(ArtifactError, match="model="):
        tersenet.load(tmp_path / "bare.terse")
    with pytest.raises(ModelError, match="the model has 'bias' but the file has not"):
        tersenet.load(outcome.file, model=nn.Linear(3, 3))


def test_a_method_that_breaks_a_promise_is_caught() -> None:
    model = mlp()
    target = match(model, ("0",))[0]
    mask = torch.zeros(64, 12, dtype=torch.bool)
    mask[:, 0] = True
    attach(target, Masked(mask))
    before = promises(model)
    check_kept(before, model, "nothing")
    form = target.module.parametrizations.weight[0]  # type: ignore[union-attr, index]
    form.mask.fill_(True)
    with torch.no_grad():
        target.module.parametrizations.weight.original.fill_(1.0)  # type: ignore[union-attr]
    with pytest.raises(BrokenPromiseError, match=r"0\.weight"):
        check_kept(before, model, "a method")


ONLY_SHARE = {"stages": [{"method": "quantize.share", "bits": 4}]}


class Causal(nn.Module):
    """A mask of infinities and a table of positions, as hand-written transformers keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((12, 12), float("-inf")).triu(1))
        self.register_buffer("positions", torch.arange(5000).float())
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.softmax(self.mask, 1)[0] + x)


def test_buffers_are_kept_as_they_are(tmp_path: Path) -> None:
    outcome = tersenet.compress(Causal(), ONLY_SHARE, three(blobs()), out=tmp_path)
    fresh = Causal()
    assert torch.equal(outcome.model.mask, fresh.mask)
    assert torch.equal(outcome.model.positions, fresh.positions)


@pytest.mark.parametrize("target", [lambda y: y.int(), lambda y: y.to(torch.uint8)])
def test_labels_of_any_integer_type_are_labels(tmp_path: Path, target: object) -> None:
    x, y = blobs()
    recipe = {"train": {"epochs": 12, "batch_size": 32, "lr": 0.01}, **ONLY_SHARE}
    figures = tersenet.compress(mlp(), recipe, three((x, target(y))), out=tmp_path).record.figures  # type: ignore[operator]
    assert figures.test_error_file is not None
    assert figures.test_error_file < 0.1


def test_targets_that_do_not_suit_the_objective_are_refused(tmp_path: Path) -> None:
    x, y = blobs()
    for wrong in (y.float(), y[:, None]):
        with pytest.raises(DataError, match="objective 'cross_entropy' cannot take targets"):
            tersenet.compress(mlp(), ONLY_SHARE, three((x, wrong)), out=tmp_path)
    unbatched = DataLoader(TensorDataset(x, y), batch_size=None)
    with pytest.raises(DataError, match="batch_size"):
        tersenet.compress(mlp(), ONLY_SHARE, {"train": unbatched, "validation": unbatched}, out=tmp_path)


def test_models_that_cannot_be_taken_are_refused(tmp_path: Path) -> None:
    data = three(blobs())
    with pytest.raises(ModelError, match="not the class"):
        tersenet.compress(nn.Linear, ONLY_SHARE, data, out=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="meta"):
        tersenet.compress(nn.Linear(12, 4, device="meta"), ONLY_SHARE, data, out=tmp_path)
    with pytest.raises(ModelError, match="meta"):
        tersenet.save(nn.Linear(12, 4, device="meta"), tmp_path / "a.terse")
    tersenet.save(nn.Linear(12, 4), tmp_path / "a.terse")
    with pytest.raises(ModelError, match="meta"):
        tersenet.load(tmp_path / "a.terse", model=nn.Linear(12, 4, device="meta"))


def test_a_model_is_not_compressed_twice_by_accident(tmp_path: Path) -> None:
    model = mlp()
    tersenet.compress(model, SMALL, three(blobs()), out=tmp_path)
    with pytest.raises(RecipeError, match="already compressed"):
        tersenet.compress(model, SMALL, three(blobs()), out=tmp_path)


def test_another_model_gets_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = tersenet.compress(nn.Sequential(nn.Linear(12, 4)), ONLY_SHARE, three(blobs()))
    second = tersenet.compress(nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4)), ONLY_SHARE, three(blobs()))
    assert first.folder != second.folder
    assert tersenet.load(first.file, model=nn.Sequential(nn.Linear(12, 4)))


def test_a_compiled_model_is_stored_under_its_own_names(tmp_path: Path) -> None:
    tersenet.save(torch.compile(mlp()), tmp_path / "a.terse")  # type: ignore[arg-type]
    tersenet.load(tmp_path / "a.terse", model=mlp())


def test_a_file_that_grows_is_said(tmp_path: Path) -> None:
    pruned = {"method": "prune.magnitude", "sparsity": 0.5}
    shared = {"method": "quantize.share", "bits": 16}
    notes = tersenet.compress(mlp(), {"stages": [pruned, shared]}, three(blobs()), out=tmp_path).record.notes
    assert any("the file grew" in note for note in notes)


def test_dense_and_file_are_each_measured_on_their_own(tmp_path: Path) -> None:
    """With its smallest weights kept this net is wrecked, so that no figure of the one can stand for the other."""
    data = three(blobs())
    trained = tersenet.compress(mlp(), {"train": SMALL["train"]}, data, out=tmp_path / "trained").model
    expected = {name: float((trained(x).argmax(1) != y).float().mean()) for name, (x, y) in data.items()}
    wrecked = {"stages": [{"method": "prune.magnitude", "sparsity": 0.9, "criterion": "smallest_kept"}]}
    outcome = tersenet.compress(trained, wrecked, data, out=tmp_path / "wrecked")
    figures = outcome.record.figures
    back = {name: float((outcome.model(x).argmax(1) != y).float().mean()) for name, (x, y) in data.items()}
    assert figures.test_error_dense == pytest.approx(expected["test"])
    assert figures.validation_error_dense == pytest.approx(expected["validation"])
    assert figures.test_error_file == pytest.approx(back["test"])
    assert figures.validation_error_file == pytest.approx(back["validation"])
    assert back["test"] > expected["test"] + 0.05
    assert back["validation"] > expected["validation"] + 0.05


class Counted(Quiet):
    """How many epochs were trained, and what was said."""

    def __init__(self) -> None:
        self.epochs, self.said = 0, ""

    def say(self, sentence: str) -> None:
        self.said += sentence

    def epoch(self, log: object) -> None:
        self.epochs += 1


def test_only_resume_takes_up_what_was_trained_and_only_on_the_same_data(tmp_path: Path) -> None:
    x, y = blobs()
    first, second = three((x, y)), three((x + 0.5, y))

    def epochs(data: object, resume: bool, out: str = "a") -> int:
        counted = Counted()
        tersenet.compress(mlp(), SMALL, data, out=tmp_path / out, resume=resume, progress=counted)
        assert ("number of threads" in counted.said) == (resume and counted.epochs > 0)
        return counted.epochs

    assert epochs(first, resume=False) == 18
    assert epochs(first, resume=True) == 0
    assert epochs(first, resume=False) == 18
    assert epochs(second, resume=True) == 18
    epochs(second, resume=False, out="b")
    assert (tmp_path / "a/model.terse").read_bytes() == (tmp_path / "b/model.terse").read_bytes()


def test_a_file_cannot_ask_for_more_memory_than_it_holds(tmp_path: Path) -> None:
    huge = {"name": "mlp", "kwargs": {"hidden": [10**6, 10**6]}}
    artifact.write(tmp_path / "huge.terse", artifact.Contents(encode_model(nn.Linear(2, 2)), model=huge))
    with pytest.raises(ArtifactError, match="names a model of"):
        tersenet.load(tmp_path / "huge.terse")


def test_a_file_may_leave_its_recipe_out(outcome: tersenet.api.Outcome, tmp_path: Path) -> None:
    plain = artifact.read(outcome.file)
    bare = tersenet.compress(mlp(), {**SMALL, "code": {"recipe": False}}, three(blobs()), out=tmp_path).file
    assert plain.recipe and not artifact.read(bare).recipe
    assert bare.stat().st_size < outcome.file.stat().st_size - 20
