"""Exported files: what is in them, what runtimes compute with them, and what cannot be exported."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tersenet
from tersenet import artifact
from tersenet.core.errors import ArtifactError, DataError, ModelError
from tersenet.core.recipe import ModelSpec
from tersenet.core.stage import parse_stage
from tersenet.flow.pack import graph_of
from tersenet.forms import Binary, Shared, Ternary, Uniform, attach, match, weight_of
from tersenet.forms.inputs import LAYERS, InputGrid, install
from tersenet.graph.program import StoredModel
from tersenet.models import build
from tersenet.quantize.int8 import Int8
from tersenet.quantize.ranges import grid
from tersenet.runtime.export import export
from tersenet.runtime.memory import peak_bytes
from tersenet.runtime.packed import packed
from tersenet.runtime.plain import plain
from tersenet.runtime.session import Session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def made(name: str, **options: object) -> nn.Module:
    """With batch norms as training leaves them, some of negative scale."""
    model = build(ModelSpec.parse({"name": name, "kwargs": options}), 0).eval()
    noise = torch.Generator().manual_seed(0)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(generator=noise)
        norm.running_var.uniform_(0.5, 2, generator=noise)
        norm.weight.data.normal_(generator=noise)
    return model


def quantized(model: nn.Module, form: str, inputs: bool = False) -> nn.Module:
    for target in match(model, (), ()):
        weight = weight_of(target)
        if form == "ternary":
            attach(target, Ternary(weight.shape))
        elif form == "binary":
            attach(target, Binary(weight.shape, scaled=True, axis=0))
        elif form == "shared":
            index = torch.bucketize(weight, torch.linspace(float(weight.min()), float(weight.max()), 15))
            attach(target, Shared(index, 16, zero=False))
        else:
            bits, scheme = int(form[-1]), "affine" if form.startswith("affine") else "symmetric"
            step, low = grid(weight.flatten(1), bits, scheme, "minmax")
            attach(target, Uniform(step, low, 2**bits, axis=0))
    layers = [m for m in model.modules() if inputs and isinstance(m, LAYERS)]
    for place, layer in enumerate(layers):  # behind a ReLU there is nothing below zero
        install(layer, InputGrid(0.04, 0 if place else -100, 256))
    return model


def initialisers(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of a type other than float: name → (type, shape)."""
    held = onnx.load(str(path)).graph.initializer
    found = {entry.name: (onnx.TensorProto.DataType.Name(entry.data_type), tuple(entry.dims)) for entry in held}
    return {name: kind for name, kind in found.items() if kind[0] not in ("FLOAT", "INT64")}


MODELS = {
    "lenet5": ((1, 28, 28), {}),
    "lenet_300_100": ((1, 28, 28), {}),
    "resnet20": ((3, 32, 32), {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_dense_gives_what_torch_gives_for_any_batch(name: str, tmp_path: Path) -> None:
    shape, options = MODELS[name]
    model = made(name, **options)
    found = export(model, (torch.randn(2, *shape),), tmp_path / "m.onnx")
    assert found.difference < 1e-5 and not found.notes
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(str(found.path)).graph.node}
    session = Session(found.path)
    for batch in (1, 5):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            torch.testing.assert_close(session(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "small", "large", "in_a_byte"),
    [
        ("uniform8", "INT8", "INT8", 1),
        ("uniform4", "INT4", "INT4", 1),
        ("affine8", "UINT8", "UINT8", 1),
        ("ternary", "INT4", "UINT8", 5),  # 3⁵ = 243 in a byte
        ("binary", "INT4", "UINT8", 8),
        ("shared", "UINT8", "UINT8", 2),
    ],
)
def test_weights_leave_as_integers(form: str, small: str, large: str, in_a_byte: int, tmp_path: Path) -> None:
    model = quantized(made("lenet5"), form)
    found = export(model, (torch.randn(3, 1, 28, 28),), tmp_path / "m.onnx")
    assert found.difference < 1e-5 and not found.notes  # of float rounding
    held = initialisers(found.path)
    for target in match(model, (), ()):
        kind, shape = held[target.name]
        packed = weight_of(target).numel() > 2000
        assert kind == (large if packed else small)
        assert math.prod(shape) == -(-weight_of(target).numel() // (in_a_byte if packed else 1))


@pytest.mark.parametrize("values", range(2, 17))
def test_numbers_come_out_of_bytes_as_they_went_in(values: int) -> None:
    from onnx.reference import ReferenceEvaluator

    generator = np.random.default_rng(values)
    book = generator.choice(np.arange(-128, 128), values, replace=False)
    numbers = np.concatenate([book, generator.choice(book, 3 * 5 * 7 - values)]).reshape(3, 5, 7)
    tensors, nodes = packed(numbers, "w")
    nodes[-1].output[0] = "out"
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.INT8, None)
    graph = onnx.helper.make_graph(nodes, "g", [], [out], tensors)
    (found,) = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, {})
    assert found.dtype == np.int8 and np.array_equal(found, numbers)
    size = {2: 8, 3: 5, 4: 4, 5: 3, 6: 3}.get(values, 2)
    assert len(tensors[0].raw_data) == -(-105 // size)


def test_integers_times_steps_are_the_form_bit_for_bit(tmp_path: Path) -> None:
    model = quantized(nn.Sequential(nn.Linear(30, 20)), "uniform8")
    graph = onnx.load(str(export(model, (torch.randn(2, 30),), tmp_path / "m.onnx").path)).graph
    held = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    (node,) = (node for node in graph.node if node.op_type == "DequantizeLinear")
    assert node.input[0] == "0.weight" and held["0.weight"].dtype == np.int8
    assert np.array_equal(held["0.weight"] * held[node.input[1]][:, None], model[0].weight.detach().numpy())


def test_rounded_inputs_are_computed_in_integers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    model = quantized(model.eval(), "uniform8", inputs=True)
    found = export(model, (torch.randn(2, 3, 16, 16),), tmp_path / "m.onnx")
    assert optimized(found.path, tmp_path)["QLinearConv"] == 1


def optimized(path: Path, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm(self.conv(x)))


def test_residual_sums_are_computed_in_integers(tmp_path: Path, toy_context: Any) -> None:
    """From the first convolution to the last nothing but integers, each value rounded once."""
    torch.manual_seed(0)
    data = toy_context((torch.randn(8, 3, 12, 12),), torch.zeros(8, 4))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Residual(), Residual(), nn.Conv2d(8, 4, 1))
    model = parse_stage({"method": Int8.method, "ranges": ["minmax"]}).apply(net.eval(), data)
    found = export(model, (torch.randn(2, 3, 12, 12),), tmp_path / "m.onnx")
    nodes = [node.op_type for node in onnx.load(str(found.path)).graph.node]
    assert nodes.count("QuantizeLinear") == 6  # input, stem, two branches, two sums
    left = optimized(found.path, tmp_path)
    assert left["QLinearConv"] == 3 and left["QLinearAdd"] == 2 and not left["Add"] and not left["Relu"]
    assert left["QuantizeLinear"] == 1 and left["Conv"] + left["FusedConv"] + left["QLinearConv"] == 4


def test_a_network_without_its_source_is_computed_in_integers_too(tmp_path: Path, toy_context: Any) -> None:
    torch.manual_seed(0)
    data = toy_context((torch.randn(8, 3, 12, 12),), torch.zeros(8, 4))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Residual(), Residual(), nn.Conv2d(8, 4, 1))
    model = parse_stage({"method": Int8.method, "ranges": ["minmax"]}).apply(net.eval(), data)
    tersenet.save(model, tmp_path / "m.terse", example=data.inputs, small_tensors="float32")
    stored, codes = tersenet.load(tmp_path / "m.terse"), dict(artifact.read(tmp_path / "m.terse").tensors)
    torch.testing.assert_close(stored(*data.inputs), model(*data.inputs), rtol=0, atol=0)
    expected = optimized(export(model, data.inputs, tmp_path / "expected.onnx").path, tmp_path)
    found = export(stored, data.inputs, tmp_path / "found.onnx", codes=codes)
    assert optimized(found.path, tmp_path) == expected and expected["QLinearAdd"] == 2
    assert export(stored, data.inputs, tmp_path / "found.pt2").difference < 1e-6


@pytest.mark.parametrize(("place", "value"), [(1, {"r": 0}), (1, 0.5), (2, 3), (3, "many"), (3, 2**40)])
def test_a_file_that_rounds_in_no_known_way_is_refused(place: int, value: Any) -> None:
    layer = nn.Linear(4, 3)
    install(layer, InputGrid(0.5, -2, 6))
    program = graph_of(layer, torch.randn(2, 4))
    (arguments,) = (call[1] for call in program["calls"] if call[0].startswith("tersenet"))
    arguments[place] = value
    with pytest.raises(ArtifactError, match="rounds an input in no way known"):
        plain(StoredModel(program, layer.state_dict()))


def test_memory_is_that_of_the_model(tmp_path: Path) -> None:
    x, found = np.zeros((1, 2000), np.float32), {}
    for width in (1, 4000):
        model = nn.Sequential(nn.Linear(2000, width), nn.Linear(width, 1))
        path = export(model, (torch.from_numpy(x),), tmp_path / f"{width}.onnx").path
        found[width] = peak_bytes(path, "onnx", [[x], [np.repeat(x, 2000, 0)]])
    if found[1] is None or found[4000] is None:
        pytest.skip("the system does not tell memory")
    assert found[4000][0] - found[1][0] > 0.9 * 4 * 2000 * 4000  # the weights
    assert found[4000][1] - found[4000][0] > 0.9 * 4 * 2000 * 4000  # what is between the layers, of 2,000 inputs
    with pytest.raises(ModelError, match="cannot be watched"):
        peak_bytes(tmp_path / "4000.onnx", "onnx", [[x[:, :3]]])


class Fire(nn.Module):
    """Branches that are concatenated (SqueezeNet), then pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.max_pool2d(torch.cat([F.relu(self.one(x)), F.relu(self.two(x))], 1), 2))


def test_what_is_concatenated_is_integers_too(tmp_path: Path, toy_context: Any) -> None:
    torch.manual_seed(0)
    data = toy_context((torch.randn(8, 3, 12, 12),), torch.zeros(8, 4))
    model = parse_stage({"method": Int8.method, "ranges": ["minmax"]}).apply(Fire().eval(), data)
    found = export(model, data.inputs, tmp_path / "m.onnx")
    assert found.difference < 0.01
    assert optimized(found.path, tmp_path)["QLinearConv"] == 3  # all but the last, whose output is real


def test_int8_file_is_at_most_27_percent_of_the_dense_one(tmp_path: Path) -> None:
    example = (torch.randn(2, 1, 28, 28),)
    dense = export(made("lenet5"), example, tmp_path / "dense.onnx")
    small = export(quantized(made("lenet5"), "uniform8", inputs=True), example, tmp_path / "int8.onnx")
    assert small.bytes <= 0.27 * dense.bytes
    halves = export(made("lenet5"), example, tmp_path / "half.onnx", dtype="float16")
    assert halves.bytes <= 0.52 * dense.bytes and 0 < halves.difference < 1e-2


def test_fewer_than_256_levels_are_clipped(tmp_path: Path) -> None:
    """Numbers are those of the definition, computed here."""
    model = nn.Sequential(nn.Linear(4, 3))
    install(model[0], InputGrid(0.5, -2, 6))
    x = torch.linspace(-4, 4, 32).reshape(8, 4)
    session = Session(export(model, (x,), tmp_path / "m.onnx").path)
    rounded = 0.5 * (x / 0.5).clamp(-2, 3).round()
    torch.testing.assert_close(session(x), F.linear(rounded, model[0].weight, model[0].bias).detach())


@pytest.mark.parametrize("ending", [".xml", ".pt2", ".safetensors"])
def test_other_formats(ending: str, tmp_path: Path) -> None:
    if ending == ".xml":
        pytest.importorskip("openvino")
    model, x = quantized(made("lenet5"), "uniform8", inputs=True), torch.randn(3, 1, 28, 28)
    found = export(model, (x,), tmp_path / f"m{ending}")
    if ending == ".safetensors":
        from safetensors.torch import load_file

        held = load_file(found.path)
        assert torch.equal(held["conv1.weight"], model.conv1.weight) and found.difference is None
        return
    assert found.difference < 1e-3
    output = Session(found.path)(x[:1].numpy())
    assert isinstance(output, np.ndarray) and output.shape == (1, 10)
    if ending == ".xml":
        assert found.bytes < 0.3 * 4 * sum(p.numel() for p in made("lenet5").parameters())


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = quantized(made("lenet5"), "uniform8", inputs=True)
    before = copy.deepcopy(model.state_dict())
    export(model, (torch.randn(2, 1, 28, 28),), tmp_path / "m.onnx")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bessel_j0"):
        export(Unknown(), (torch.randn(2, 3),), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(nn.Linear(3, 2), (torch.randn(2, 3),), tmp_path / "m.onnx").path
    session = Session(path)
    with pytest.raises(DataError, match=r"takes batch×3 float32, not 1×4 float32"):
        session(np.zeros((1, 4), np.float32))
    with pytest.raises(DataError, match=r"not 1×3 float64"):
        session(np.zeros((1, 3)))
    with pytest.raises(DataError, match="takes 1 inputs, not 2"):
        session(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(ModelError, match="the ending says the format"):
        export(nn.Linear(3, 2), (torch.randn(2, 3),), tmp_path / "m.tflite")
    with pytest.raises(ModelError, match="opset 9"):
        export(nn.Linear(3, 2), (torch.randn(2, 3),), path, opset=9)
    with pytest.raises(ModelError, match="cannot compute with inputs of 2×4"):
        export(nn.Linear(3, 2), (torch.randn(2, 4),), path)
    (tmp_path / "bad.onnx").write_bytes(b"no such thing")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        Session(tmp_path / "bad.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'tersenet\[onnx\]'"):
        Session(path)
