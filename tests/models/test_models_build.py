"""Models from specifications: seeded, filled from files, and refused in one sentence."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from tersenet.core.errors import ModelError, RecipeError, TersenetError
from tersenet.core.recipe import ModelSpec
from tersenet.models import build, check_finite

SMALL = {"inputs": 4, "hidden": [3], "classes": 2}


def small(seed=0, **options):
    return build(ModelSpec(name="mlp", kwargs=SMALL, **options), seed)


def test_weights_follow_from_the_seed_and_the_callers_generator_is_left_alone():
    before = torch.get_rng_state()
    one, again, other = small(1), small(1), small(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.fc1.weight, again.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_trained_weights_are_loaded(tmp_path, suffix):
    trained = small(5)
    path = tmp_path / f"weights{suffix}"
    torch.save(trained.state_dict(), path) if suffix == ".pt" else save_file(trained.state_dict(), path)
    loaded = small(0, weights=str(path))
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in trained.state_dict().items())


def refused(spec, kind=ModelError) -> str:
    with pytest.raises(TersenetError) as caught:
        build(spec, 0)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


class Bomb:
    """Runs code when it is unpickled without care."""

    def __reduce__(self):
        return sys.exit, (99,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("fc1.bias"), "'fc1.bias' is of the model not in the file"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' is of the file not in the model"),
        (
            lambda state: state.update({"fc2.weight": torch.zeros(2, 4)}),
            "'fc2.weight' is [2, 4] in the file and [2, 3]",
        ),
        (lambda state: state["fc1.weight"][0, :2].fill_(torch.nan), "'fc1.weight' holds 2 values that are NaN or inf"),
        (lambda state: state.update(code=Bomb()), "cannot be read as a state dict: UnpicklingError"),
        (lambda state: state.update(code=3), "must hold a state dict"),
        (lambda state: state.clear(), "'fc1.weight', 'fc1.bias', 'fc2.weight' and 1 more are of the model not"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, said):
    state = small(5).state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pt")
    assert said in refused(ModelSpec(name="mlp", kwargs=SMALL, weights=str(tmp_path / "w.pt")))


def test_weight_files_that_are_none(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"nothing of the kind")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 9)
    (tmp_path / "w.onnx").write_bytes(b"")
    for name, said in [
        ("none.pt", "no such file"),
        ("w.pt", "cannot be read as a state dict"),
        ("w.safetensors", "cannot be read as a state dict"),
        ("w.onnx", "must be a state dict in .pt, .pth or .safetensors, not '.onnx'"),
    ]:
        assert said in refused(ModelSpec(name="mlp", kwargs=SMALL, weights=str(tmp_path / name)))


FACTORY = """
import torch
from torch import nn
import my_own_helper

def net(width=3):
    return nn.Linear(2, width)

def broken():
    net().weight[0, 7]

def nothing():
    return 3

def poisoned():
    model = net()
    nn.init.constant_(model.bias, float("inf"))
    return model
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_model.py").write_text(FACTORY)
    (tmp_path / "my_own_helper.py").write_text("")
    (tmp_path / "my_bad_import.py").write_text("import not_installed_anywhere")
    (tmp_path / "my_bad_syntax.py").write_text("def net(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def test_a_factory_in_the_current_directory(folder):
    path = list(sys.path)
    model = build(ModelSpec(factory="my_own_model:net", kwargs={"width": 5}), 1)
    assert model.weight.shape == (5, 2) and sys.path == path
    assert torch.equal(model.weight, build(ModelSpec(factory="my_own_model:net", kwargs={"width": 5}), 1).weight)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("my_own_model:broken", "factory my_own_model:broken raised IndexError: index 7 is out of bounds"),
        ("my_own_model:nothing", "must return a torch.nn.Module, not int"),
        ("my_own_model:poisoned", "'bias' holds 3 values that are NaN or infinite"),
        ("my_own_model:nte", "there is no 'nte' in it; did you mean 'net'?"),
        ("my_own_models:net", "there is no module 'my_own_models', neither installed nor in the current directory"),
        ("my_bad_import:net", "its module needs 'not_installed_anywhere', which is not installed"),
        ("my_bad_syntax:net", "its module cannot be imported: SyntaxError: invalid syntax"),
    ],
)
def test_factories_that_fail(folder, factory, said):
    assert said in refused(ModelSpec(factory=factory))


def test_names_and_arguments_that_are_wrong():
    assert refused(ModelSpec(name="lenet_5"), RecipeError) == "unknown model 'lenet_5'; did you mean 'lenet5'?"
    assert "unknown argument 'class'; did you mean 'classes'?" in refused(ModelSpec(name="lenet5", kwargs={"class": 3}))
    assert "cannot be built with {'classes': 'ten'}" in refused(ModelSpec(name="lenet5", kwargs={"classes": "ten"}))


def test_whole_numbers_are_finite_and_lazy_parameters_have_no_shape():
    check_finite(torch.nn.BatchNorm1d(3))
    with pytest.raises(ModelError, match="'weight' has no shape yet; run one batch through the model"):
        check_finite(torch.nn.LazyLinear(3))
