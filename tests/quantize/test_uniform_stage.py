"""What `quantize.uniform` makes of its options: which grid each weight gets, channel by channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tersenet.quantize.uniform  # noqa: F401
from tersenet.core.stage import parse_stage
from tersenet.forms import Masked, Shared, attach, decode, form_of, latent_of, match, weight_of


@pytest.fixture
def context(toy_context):
    return toy_context((torch.zeros(1),), torch.zeros(1))


def quantized(layer, context, **options):
    """(its weight before, the target) after the stage, on the range of the entries unless told."""
    model = nn.ModuleDict({"layer": layer})
    before = layer.weight.detach().clone()
    parse_stage({"method": "quantize.uniform", "bits": 4, "range": "minmax", **options}).apply(model, context)
    return before, match(model)[0]


LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), 0),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3), 0),
    "transposed": (lambda: nn.ConvTranspose2d(4, 2, 3), 1),
    "embedding": (lambda: nn.Embedding(6, 4), 0),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_output_channel_has_a_grid_of_its_own(context, kind):
    """Sixteen numbers from −8 to 7, over the range of the channel. A transposed convolution's outputs come second."""
    build, axis = LAYERS[kind]
    torch.manual_seed(0)
    weight, target = quantized(build(), context)
    channels = weight.unbind(axis)
    expected = [max(float(own.max()) / 7, -float(own.min()) / 8) for own in channels]
    assert form_of(target).step.tolist() == pytest.approx(expected)
    for own, found, step in zip(channels, weight_of(target).unbind(axis), expected, strict=True):
        torch.testing.assert_close(found, (own / step).round().clamp(-8, 7) * step)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_tensor_has_one_grid(context, kind):
    torch.manual_seed(0)
    weight, target = quantized(LAYERS[kind][0](), context, per="tensor")
    step = max(float(weight.max()) / 7, -float(weight.min()) / 8)
    assert form_of(target).step.tolist() == pytest.approx([step])
    torch.testing.assert_close(weight_of(target), (weight / step).round().clamp(-8, 7) * step)


@pytest.mark.parametrize("percentile", [80, 95])
def test_the_percentile_is_the_one_that_is_asked_for(context, percentile):
    torch.manual_seed(0)
    weight, target = quantized(nn.Linear(40, 5), context, per="tensor", range="percentile", percentile=percentile)
    ordered, kept = np.sort(weight.numpy().reshape(-1)), 2 * percentile
    assert float(form_of(target).step) == pytest.approx(max(ordered[kept - 1] / 7, -ordered[200 - kept] / 8))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_steps_are_of_the_precision_that_is_asked_for(context, precision):
    """In the file, and so in what is computed."""
    torch.manual_seed(0)
    weight, target = quantized(nn.Linear(40, 5), context, step=precision)
    exact = torch.maximum(weight.amax(1) / 7, -weight.amin(1) / 8)
    step = (exact.half().float() if precision == "float16" else exact)[:, None]
    assert torch.equal(weight_of(target), (weight / step).round().clamp(-8, 7) * step)
    assert form_of(target).encode(latent_of(target)).tables["codebook"].dtype == precision


def test_weights_of_few_values_are_left_alone(context):
    layer = nn.Linear(4, 2)
    index = torch.tensor([[0, 1, 2, 1], [2, 2, 1, 0]])
    attach(match(nn.ModuleDict({"layer": layer}))[0], Shared(index, 3, zero=False))
    before, target = quantized(layer, context)
    assert torch.equal(weight_of(target), before) and form_of(target).name == "shared"
    assert context.notes == ["layer.weight takes 3 values already (shared); it is left as it is"]


def test_what_is_pruned_stays_so_whatever_is_behind_it(context):
    """The latents behind the mask may come to be anything."""
    layer, mask = nn.Linear(6, 4), torch.arange(24).reshape(4, 6) % 3 > 0
    attach(match(nn.ModuleDict({"layer": layer}))[0], Masked(mask))
    _, target = quantized(layer, context)
    with torch.no_grad():
        latent_of(target).fill_(0.1)
    form, latent = form_of(target), latent_of(target)
    assert torch.equal(weight_of(target) != 0, mask) and torch.equal(form.numbers(latent) != 0, mask)
    assert torch.equal(decode(form.encode(latent)), weight_of(target))
