"""What every form must do, alone and on top of every form that may stand before it. New forms: add a sample here."""

import copy

import pytest
import torch
from torch import nn

from tersenet.forms import (
    FORMS,
    NM,
    Binary,
    Dense,
    Form,
    Hashed,
    Masked,
    Product,
    Shared,
    Ternary,
    Uniform,
    aliases,
    attach,
    decode,
    detach,
    encode_model,
    form_of,
    latent_of,
    load_codes,
    match,
    weight_of,
)
from tersenet.forms.dependent import Dependent
from tersenet.forms.rotated import Rotated


def _masked(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    mask = weight.abs() >= weight.abs().median()
    return Masked(mask if support is None else mask & support)


def _shared(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    code = (weight > 0).long() + (weight > 0.2).long()
    return Shared(code if support is None else torch.where(support, code + 1, 0), 3, zero=support is not None)


def _half_shared(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    form = _shared(weight, support)
    return Shared(form.index, 3, zero=support is not None, precision="float16")


def _nm(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    """Two of m along the last axis, and in one group fewer."""
    m = next(m for m in (4, 3) if weight.shape[-1] % m == 0)
    order = weight.abs().reshape(-1, m).argsort(dim=1, descending=True)[:, :2]
    mask = torch.zeros(len(order), m, dtype=torch.bool).scatter_(1, order, True)
    mask[0] = False
    mask = mask.reshape(weight.shape)
    return NM(mask if support is None else mask & support, 2, m)


def _binary(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    return Binary(weight.shape, support=support, bound=0.1)


def _scaled_binary(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    return Binary(weight.shape, support=support, scaled=True, axis=0)


def _ternary(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    return Ternary(weight.shape, support=support, axis=0)


def _trained_ternary(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    return Ternary(weight.shape, 0.3, "share", support=support, start=weight)


def _product(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    """Pairs of codes for columns; a vector has nothing to cut, so it is one column."""
    columns = weight.reshape(weight.shape[0], -1).shape[1] if weight.ndim else 1
    index = (torch.arange(columns) % min(3, columns))[None]
    return Product(index, min(3, columns), weight.shape, "outputs", support=support, precision="int8")


def _hashed(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    return Hashed(weight.shape, max(weight.numel() // 3, 1), 7, support)


def _uniform(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    rows = weight.shape[0]
    low = torch.arange(rows) % 2 - 8
    return Uniform(torch.linspace(0.1, 0.2, rows), low, 16, axis=0, support=support, precision="float16")


def _learned_uniform(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    return Uniform(torch.tensor([0.1]), torch.tensor([-16]), 32, learned=True, support=support)


def _dependent(weight: torch.Tensor, support: torch.Tensor | None) -> Form:
    return Dependent(torch.tensor([0.05]), 16, 4, support=support, precision="float16")


SAMPLES = {
    "dense": [lambda w, s: Dense()],
    "masked": [_masked],
    "nm": [_nm],
    "shared": [_shared, _half_shared],
    "binary": [_binary, _scaled_binary],
    "ternary": [_ternary, _trained_ternary],
    "product": [_product],
    "uniform": [_uniform, _learned_uniform],
    "hashed": [_hashed],
    "dependent": [_dependent, lambda w, s: Dependent(torch.tensor([0.03]), 20, 8, support=s)],
    "rotated": [lambda w, s: Rotated()],
}
MAKERS = [maker for name in FORMS for maker in SAMPLES[name]]
PAIRS = [
    (first, second)
    for a in FORMS
    for b in FORMS
    for first in SAMPLES[a]
    for second in SAMPLES[b]
    if FORMS[a].phase <= FORMS[b].phase
]
STACKS = [(maker,) for maker in MAKERS] + PAIRS


class Net(nn.Module):
    """A convolution, a plain layer, and a matrix that two layers share."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.encoder = nn.Conv1d(1, 4, 3), nn.Linear(16, 6), nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 6)
        self.decoder.weight = self.encoder.weight

    def forward(self, x):
        return self.decoder(torch.relu(self.encoder(torch.relu(self.fc(torch.relu(self.conv(x)).flatten(1))))))


@pytest.fixture(params=STACKS, ids=lambda stack: "+".join(f.__name__.strip("_<>") for f in stack))
def model(request):
    torch.manual_seed(0)
    net = Net()
    for maker in request.param:
        for target in match(net):
            form = form_of(target)
            attach(target, maker(weight_of(target), None if form is None else form.support))
    return net


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def train(net, steps=4):
    torch.manual_seed(1)
    x, y = torch.randn(9, 1, 6), torch.randn(9, 6)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()


def test_every_form_has_a_sample():
    assert set(SAMPLES) == set(FORMS)


def test_decode_is_the_forward_bit_for_bit_before_and_after_training(model):
    for _ in range(2):
        codes = encode_model(model)
        for target in match(model):
            assert bits(decode(codes[target.name])) == bits(weight_of(target))
            assert codes[target.name].form == form_of(target).name
        train(model)


def test_it_trains_and_keeps_what_it_settled(model):
    before = [(form_of(target).support, weight_of(target).clone()) for target in match(model)]
    train(model)
    for target, (support, old) in zip(match(model), before, strict=True):
        weight = weight_of(target)
        assert not torch.equal(weight, old)
        assert support is None or not bool(weight[~support].any())
        distinct = form_of(target).distinct
        assert distinct is None or weight.unique().numel() <= distinct


def test_right_inverse_of_a_weight_it_can_hold_is_exact(model):
    train(model)
    for target in match(model):
        form, weight = form_of(target), weight_of(target)
        assert torch.equal(form(form.right_inverse(weight)), weight)


def test_state_dict_round_trip(model):
    twin = copy.deepcopy(model)
    train(model)
    twin.load_state_dict(model.state_dict(), strict=True)
    for ours, theirs in zip(match(model), match(twin), strict=True):
        assert bits(weight_of(ours)) == bits(weight_of(theirs))
        assert latent_of(ours) is not latent_of(theirs)


def test_into_a_fresh_model_and_back_to_plain_parameters(model):
    train(model)
    fresh, plain = Net(), copy.deepcopy(model)
    load_codes(fresh, encode_model(model, "float32"), aliases(model))
    for target in match(plain):
        detach(target)
    x = torch.randn(3, 1, 6)
    assert torch.equal(fresh(x), model(x)) and torch.equal(plain(x), model(x))
    assert {name: type(m) for name, m in plain.named_modules()} == {name: type(m) for name, m in Net().named_modules()}
    assert plain.decoder.weight is plain.encoder.weight
