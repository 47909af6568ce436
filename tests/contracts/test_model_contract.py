"""What every model of the zoo must do. A new one is tested by being registered.

Those for large images run here with fewer channels or on smaller images, by a line in SMALLER; what they are with
their default arguments is looked at on the meta device, where nothing is computed.
"""

import copy
import inspect

import pytest
import torch

import tersenet
import tersenet.quantize.uniform
from tersenet.core.errors import ModelError
from tersenet.core.recipe import ModelSpec
from tersenet.core.stage import parse_stage
from tersenet.graph import ChannelGraph, remove
from tersenet.models import MODELS, build, input_shape, skeleton

SEED = 3
SMALLER = {  # arguments, and the shape of an example
    "alexnet": ({"image": 64, "hidden": 32}, (3, 64, 64)),
    "bnn": ({"hidden": [64, 64, 64]}, (1, 28, 28)),
    "densenet121": ({"growth": 8, "initial": 16}, (3, 32, 32)),
    "ghostnet": ({"image": 32, "width": 0.5}, (3, 32, 32)),
    "googlenet": ({"image": 32}, (3, 32, 32)),
    "mobilenet_v1": ({"image": 32, "width": 0.25}, (3, 32, 32)),
    "mobilenet_v2": ({"image": 32, "width": 0.35}, (3, 32, 32)),
    "resnet18": ({"width": 8}, (3, 64, 64)),
    "resnet34": ({"width": 8}, (3, 64, 64)),
    "resnet50": ({"width": 8}, (3, 64, 64)),
    "resnet101": ({"width": 8}, (3, 64, 64)),
    "resnet152": ({"width": 8}, (3, 64, 64)),
    "shufflenet_v1": ({"image": 32, "groups": 8, "width": 0.5}, (3, 32, 32)),
    "squeezenet1_0": ({"image": 32}, (3, 32, 32)),
    "squeezenet1_1": ({"image": 32}, (3, 32, 32)),
    "vgg16": ({"image": 32, "hidden": 32}, (3, 32, 32)),
    "vit_tiny": ({"image": 32, "dim": 48, "heads": 3}, (3, 32, 32)),
    "xception": ({"image": 32, "width": 0.25}, (3, 32, 32)),
}
LARGEST = 20e6  # parameters of a model that is run here
ALIKE = {
    *("densenet40", "densenet121", "mlp_1x100", "mlp_2x1200", "mlp_3x512", "squeezenet1_1", "vgg16_bn", "vgg16_cifar"),
    *("resnet18", "resnet32", "resnet34", "resnet44", "resnet56", "resnet101", "resnet110", "resnet152", "vit_tiny"),
}
"""Compression is not tried on these, since their layers are those of another model or hang together as there."""


@pytest.fixture(scope="module", params=list(MODELS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return made(name).eval()


def made(name, seed=SEED, **kwargs):
    return build(ModelSpec(name=name, kwargs=SMALLER.get(name, ({},))[0] | kwargs), seed)


def example(name, count=2):
    shape = SMALLER[name][1] if name in SMALLER else input_shape(name)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def argument(name, key):
    parameters = inspect.signature(MODELS[name].builder).parameters
    return parameters[key].default if key in parameters else None


@pytest.fixture
def compressed(name):
    """A model to compress, with constants that no initialisation gives: biases, norms and their statistics."""
    if name in ALIKE:
        pytest.skip("another model has these layers")
    generator, model = torch.Generator().manual_seed(1), made(name).eval()
    for tensor in model.state_dict().values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    return model


def on_meta(name):
    with torch.device("meta"):
        return skeleton(ModelSpec(name=name))


def test_gives_one_row_of_logits_for_each_example(name, model):
    output = model(example(name))
    assert output.shape == (2, argument(name, "classes")) and output.isfinite().all()
    size = max(1.0, float(output.detach().abs().max()))
    torch.testing.assert_close(model(example(name)[:1]), output[:1], rtol=1e-4, atol=1e-5 * size)


def test_with_its_default_arguments_it_takes_the_input_it_is_registered_with(name):
    images = torch.empty(2, *input_shape(name), device="meta")
    assert on_meta(name).eval()(images).shape == (2, argument(name, "classes"))


@pytest.mark.parametrize(("key", "value"), [("image", 64), ("channels", 2), ("inputs", 48)])
def test_arguments_that_change_its_input_are_known(name, key, value):
    if argument(name, key) is None:
        pytest.skip(f"it takes no {key}")
    arguments = {key: value}
    with torch.device("meta"):
        model = skeleton(ModelSpec(name=name, kwargs=arguments)).eval()
    shape = input_shape(name, arguments)
    assert value in shape
    assert model(torch.empty(2, *shape, device="meta")).shape == (2, argument(name, "classes"))


def test_what_is_run_here_is_small_and_differs_from_the_default_in_size_alone(name, model):
    whole = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) < LARGEST
    kinds = [[type(module) for module in net.modules()] for net in (model, whole)]
    assert kinds[0] == kinds[1] and list(model.state_dict()) == list(whole.state_dict())


def test_takes_the_number_of_classes(name):
    assert made(name, classes=7).eval()(example(name)).shape == (2, 7)


def test_the_same_seed_gives_the_same_weights(name, model):
    again, other = (made(name, seed).state_dict() for seed in (SEED, SEED + 1))
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in model.state_dict().items())


def test_a_copy_is_independent(name, model):
    twin = copy.deepcopy(model)
    assert torch.equal(twin(example(name)), model(example(name)))
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))


def test_the_state_dict_is_the_whole_model(name, model):
    other = made(name, SEED + 1).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(example(name)), model(example(name)))


def test_a_gradient_reaches_every_parameter(name):
    trained = made(name).train()
    trained(example(name, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in trained.parameters())


def test_dropout_where_a_model_takes_it_drops_in_training_only(name, model):
    if argument(name, "dropout") is None:
        pytest.skip("takes no dropout")
    dropping, plain = made(name, dropout=0.5).eval(), made(name, dropout=0.0).eval()
    assert dropping.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(dropping(example(name)), plain(example(name)))
    assert not torch.equal(dropping.train()(example(name)), dropping(example(name)))
    assert torch.equal(plain.train()(example(name)), plain(example(name)))


def test_half_of_every_group_of_channels_goes_where_it_can(name, compressed):
    graph = ChannelGraph(compressed, example(name))
    units = {group.name: range(0, group.units, 2) for group in graph if group.prunable}
    result = remove(compressed, graph, units)
    assert result.removed.keys() == units.keys() and not result.refused and not graph.unknown
    assert result.difference < 1e-4 < result.change  # from the masked model, which is another than the whole one
    assert compressed(example(name)).shape == (2, argument(name, "classes"))


def test_its_weights_in_four_bits_are_stored_and_run_without_its_source(name, compressed, toy_context, tmp_path):
    context = toy_context((example(name),), torch.zeros(2, argument(name, "classes")))
    parse_stage({"method": "quantize.uniform", "bits": 4, "range": "minmax"}).apply(compressed, context)
    tersenet.save(compressed, tmp_path / "m.terse", example=example(name), small_tensors="float32", coder="raw")
    loaded = tersenet.load(tmp_path / "m.terse")
    assert type(loaded) is not type(compressed) and torch.equal(loaded(example(name)), compressed(example(name)))


def test_arguments_of_the_wrong_kind_are_refused_in_one_sentence(name):
    for key, parameter in inspect.signature(MODELS[name].builder).parameters.items():
        for wrong in ("no such thing", None):
            if isinstance(parameter.default, (int, float, str)):
                with pytest.raises(ModelError, match=rf"^model {name}: cannot be built with .*{key}.*must be [^\n]+$"):
                    made(name, **{key: wrong})
