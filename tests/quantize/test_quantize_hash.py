"""Hashed sharing: the hash in plain integers, gradients as explicit sums, the file without a single code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tersenet.quantize.hash  # noqa: F401
from tersenet.core.errors import ArtifactError, ModelError, RecipeError
from tersenet.core.stage import parse_stage
from tersenet.forms import Hashed, Masked, attach, decode, form_of, latent_of, match, weight_of
from tersenet.forms.hashed import places

MASK = 2**64 - 1


def by_hand(entry, buckets, seed):
    """SplitMix64 in Python's own integers."""
    z = (entry + 1) * 0x9E3779B97F4A7C15 + seed & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    z ^= z >> 31
    return (z >> 32) * buckets >> 32, 1.0 if z & 1 else -1.0


@pytest.mark.parametrize(("buckets", "seed"), [(1, 0), (7, 5), (1000, 2**31 - 1)])
def test_the_hash_is_that_of_plain_integers(buckets, seed):
    bucket, sign = places(200, buckets, seed)
    assert list(zip(bucket.tolist(), sign.tolist(), strict=True)) == [by_hand(n, buckets, seed) for n in range(200)]


def test_the_published_sequence():
    """SplitMix64 from state 0 begins with 16294208416658607535, 7960286522194355700 (Vigna's reference output)."""
    first = [16294208416658607535, 7960286522194355700]
    assert places(2, 1 << 32, 0)[0].astype(np.uint32).tolist() == [value >> 32 for value in first]


def test_buckets_and_signs_are_even():
    bucket, sign = places(100_000, 10, 3)
    counts = np.bincount(bucket, minlength=10)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 30  # chi-square with 9 degrees of freedom, p < 0.001
    assert abs(float(sign.mean())) < 0.015
    assert abs(float(np.corrcoef(bucket, sign)[0, 1])) < 0.015


def test_the_gradient_of_a_value_is_the_signed_sum_over_its_entries():
    form, latent = Hashed((6, 5), 4, 1), torch.randn(4, requires_grad=True)
    slope = torch.randn(6, 5)
    (form(latent) * slope).sum().backward()
    for value in range(4):
        expected = sum(
            float(slope.reshape(-1)[n]) * by_hand(n, 4, 1)[1] for n in range(30) if by_hand(n, 4, 1)[0] == value
        )
        assert float(latent.grad[value]) == pytest.approx(expected, rel=1e-5)


def test_values_begin_as_least_squares():
    weight = torch.randn(6, 5)
    form = Hashed(weight.shape, 4, 1)
    design = np.zeros((30, 4))
    for n in range(30):
        bucket, sign = by_hand(n, 4, 1)
        design[n, bucket] = sign
    solution = np.linalg.lstsq(design, weight.reshape(-1).numpy(), rcond=None)[0]
    np.testing.assert_allclose(form.right_inverse(weight).numpy(), solution, rtol=1e-5)


def test_the_file_holds_values_alone(toy_context):
    torch.manual_seed(0)
    model, context = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), None
    context = toy_context((torch.randn(64, 8),), torch.randn(64, 4))
    before = float(context.loss(model))
    plan = parse_stage({"method": "quantize.hash", "share": 0.25, "finetune": {"steps": 200, "lr": 0.01}})
    plan.apply(model, context)
    assert float(context.loss(model)) < before
    for target in match(model):
        code = form_of(target).encode(latent_of(target))
        assert code.streams == {} and code.tables["values"].size == round(0.25 * weight_of(target).numel())
        assert torch.equal(decode(code), weight_of(target))


def test_zeros_stay_zero(toy_context):
    model = nn.Sequential(nn.Linear(6, 6))
    mask = torch.rand(6, 6) > 0.5
    attach(match(model)[0], Masked(mask))
    context = toy_context((torch.randn(8, 6),), torch.randn(8, 6))
    parse_stage({"method": "quantize.hash", "share": 0.5, "finetune": {"steps": 5, "lr": 0.1}}).apply(model, context)
    target = match(model)[0]
    assert not bool(weight_of(target)[~mask].any())
    assert torch.equal(decode(form_of(target).encode(latent_of(target))), weight_of(target))


@pytest.mark.parametrize("share", [0, 1.5, -1, "half", {}])
def test_mistakes_are_told(share):
    with pytest.raises(RecipeError, match="share"):
        parse_stage({"method": "quantize.hash", "share": share})


def test_weights_and_files_that_are_none(toy_context):
    model = nn.Sequential(nn.Linear(6, 6))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.inf
    context = toy_context((torch.randn(8, 6),), torch.randn(8, 6))
    with pytest.raises(ModelError, match=r"0.weight holds NaN or infinity"):
        parse_stage({"method": "quantize.hash", "share": 0.5}).apply(model, context)
    code = Hashed((4, 4), 3, 9).encode(torch.randn(3))
    code.options["seed"] = -3
    with pytest.raises(ArtifactError, match="make no weight"):
        decode(code)
