"""Graphs made smaller compute the same numbers: against ONNX's reference implementation."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from tersenet.runtime.tidy import shorten  # noqa: E402

STEPS = {"fine": np.float32(0.1), "same": np.float32(0.1), "coarse": np.float32(0.7), "zero": np.uint8(128)}


def graph(*nodes: tuple[str, str, str], outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """Nodes as (operator, 'inputs', output)."""
    made = [helper.make_node(kind, given.split(), [out], name=f"a long name of {out}") for kind, given, out in nodes]
    for node in made:
        if node.op_type == "Concat":
            node.attribute.append(helper.make_attribute("axis", 1))
        if node.op_type in ("MaxPool", "AveragePool"):
            node.attribute.append(helper.make_attribute("kernel_shape", [2, 2]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("x", *outputs)]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in STEPS.items()]
    return helper.make_model(helper.make_graph(made, "g", ports[:1], ports[1:], held))


def twice(step: str, other: str) -> list[tuple[str, str, str]]:
    return [
        ("QuantizeLinear", f"x {step} zero", "q"),
        ("DequantizeLinear", f"q {step} zero", "d"),
        ("QuantizeLinear", f"d {other} zero", "qq"),
        ("DequantizeLinear", f"qq {other} zero", "dd"),
        ("Relu", "dd", "y"),
    ]


def shortened(model: onnx.ModelProto) -> tuple[list[str], float]:
    """Operators that are left, and how far outputs are from what they were."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    before = ReferenceEvaluator(model).run(None, {"x": x})
    shorten(model, {"coarse"})
    onnx.checker.check_model(model)
    after = ReferenceEvaluator(model).run(None, {"x": x})
    distance = max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True))
    return [node.op_type for node in model.graph.node], distance


def test_rounding_twice_to_equal_steps_is_rounding_once() -> None:
    model = graph(*twice("fine", "same"))
    assert shortened(model) == (["QuantizeLinear", "DequantizeLinear", "Relu"], 0)
    assert [entry.name for entry in model.graph.initializer].count("coarse") == 1
    assert len(model.graph.initializer) == 3 and model.graph.input[0].name == "x" and model.graph.output[0].name == "y"
    assert not any(node.name for node in model.graph.node)


def test_rounding_to_other_steps_stays() -> None:
    operators, distance = shortened(graph(*twice("fine", "coarse")))
    assert operators.count("QuantizeLinear") == 2 and distance == 0


def test_one_value_is_rounded_in_one_place() -> None:
    nodes = [("QuantizeLinear", f"x {step} zero", f"q{step}") for step in ("fine", "same", "coarse")]
    nodes += [("DequantizeLinear", f"q{step} {step} zero", f"d{step}") for step in ("fine", "same", "coarse")]
    nodes += [("Add", "dfine dsame", "z"), ("Add", "z dcoarse", "y")]
    operators, distance = shortened(graph(*nodes))
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 2 and distance == 0


@pytest.mark.parametrize("pooled", [False, True])
def test_what_is_concatenated_is_rounded_before(pooled: bool) -> None:
    nodes = [("Relu", "x", "r"), ("Abs", "x", "a"), ("Concat", "r a", "c")]
    nodes += [("MaxPool", "c", "p")] if pooled else []
    nodes += [("QuantizeLinear", f"{'p' if pooled else 'c'} fine zero", "q"), ("DequantizeLinear", "q fine zero", "y")]
    operators, distance = shortened(graph(*nodes))
    assert operators.index("Concat") > operators.index("QuantizeLinear") and distance == 0
    assert operators.count("QuantizeLinear") == 3


def test_a_concatenation_that_others_read_stays() -> None:
    nodes = [("Concat", "x x", "c"), ("QuantizeLinear", "c fine zero", "q"), ("DequantizeLinear", "q fine zero", "d")]
    operators, distance = shortened(graph(*nodes, ("Add", "c d", "y")))
    assert operators == ["Concat", "QuantizeLinear", "DequantizeLinear", "Add"] and distance == 0


@pytest.mark.parametrize("kind", ["MaxPool", "Flatten", "Transpose"])
def test_what_is_moved_or_pooled_is_integers_already(kind: str) -> None:
    rounded = [("QuantizeLinear", "p fine zero", "q"), ("DequantizeLinear", "q fine zero", "y")]
    operators, distance = shortened(graph(("Relu", "x", "r"), (kind, "r", "p"), *rounded))
    pair = ["QuantizeLinear", "DequantizeLinear"]
    assert operators == ["Relu", *pair, kind, *pair] and distance == 0


@pytest.mark.parametrize("kind", ["AveragePool", "Softmax"])
def test_what_does_not_commute_with_rounding_stays_before_it(kind: str) -> None:
    rounded = [("QuantizeLinear", "p fine zero", "q"), ("DequantizeLinear", "q fine zero", "y")]
    operators, distance = shortened(graph(("Relu", "x", "r"), (kind, "r", "p"), *rounded))
    assert operators == ["Relu", kind, "QuantizeLinear", "DequantizeLinear"] and distance == 0


def test_a_pooling_that_others_read_stays() -> None:
    rounded = [("QuantizeLinear", "p fine zero", "q"), ("DequantizeLinear", "q fine zero", "d")]
    nodes = [("Relu", "x", "r"), ("MaxPool", "r", "p"), *rounded, ("Add", "p d", "y")]
    operators, distance = shortened(graph(*nodes))
    assert operators == ["Relu", "MaxPool", "QuantizeLinear", "DequantizeLinear", "Add"] and distance == 0


def test_names_of_outputs_stay() -> None:
    nodes = [("QuantizeLinear", "x fine zero", "q"), ("DequantizeLinear", "q fine zero", "y")]
    model = graph(*nodes, ("DequantizeLinear", "q same zero", "1"), outputs=("y", "1"))
    assert shortened(model)[1] == 0 and [entry.name for entry in model.graph.output] == ["y", "1"]
