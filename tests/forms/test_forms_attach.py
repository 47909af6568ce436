"""Forms on the weights of real modules: on, off, copied, saved, shared, and never without effect."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tersenet.core.errors import ModelError, RecipeError
from tersenet.forms import Dense, Masked, Shared, attach, detach, form_of, latent_of, match, weight_of


def mask_of(target, seed=0):
    return torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def prune(model, targets=()):
    for target in match(model, targets):
        attach(target, Masked(mask_of(target)))


def share(model, targets=()):
    for target in match(model, targets):
        form = form_of(target)
        support = mask_of(target) | True if form is None else form.support
        index = torch.randint(1, 4, target.shape, generator=torch.Generator().manual_seed(1))
        attach(target, Shared(torch.where(support, index, 0), 3, zero=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("put", [prune, share])
def test_attach_and_detach(dtype, requires_grad, put):
    layer = nn.Linear(5, 4).to(dtype)
    parameter = layer.weight.requires_grad_(requires_grad)
    parameter.grad = torch.ones_like(parameter) if requires_grad else None
    put(layer)
    (target,) = match(layer)
    assert latent_of(target) is parameter and parameter.grad is None
    assert (parameter.requires_grad, parameter.dtype) == (requires_grad, dtype)
    weight = weight_of(target)
    assert weight.dtype == dtype
    detach(target)
    assert type(layer) is nn.Linear and layer.weight is parameter and isinstance(parameter, nn.Parameter)
    assert torch.equal(parameter, weight) and parameter.requires_grad == requires_grad
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert form_of(match(layer)[0]) is None


def test_a_new_form_takes_over_weight_and_zeros():
    layer = nn.Linear(8, 8)
    prune(layer)
    before = layer.weight.detach().clone()
    (target,) = match(layer)
    attach(target, Shared(torch.where(before != 0, 1, 0), 1, zero=True))
    assert isinstance(form_of(target), Shared) and len(layer.parametrizations.weight) == 1
    assert torch.equal(layer.weight != 0, before != 0)
    assert latent_of(target).item() == pytest.approx(before[before != 0].mean().item())


def test_a_form_may_not_give_zeros_back():
    layer = nn.Linear(3, 3)
    prune(layer)
    (target,) = match(layer)
    for form in (Masked(torch.ones(3, 3, dtype=torch.bool)), Shared(torch.zeros(3, 3, dtype=int), 1, zero=False)):
        with pytest.raises(ValueError, match="come back"):
            attach(target, form)


def test_a_form_may_not_settle_less_than_the_old_one():
    layer = nn.Linear(3, 3)
    share(layer)
    (target,) = match(layer)
    for form in (Masked(form_of(target).support), Dense()):
        with pytest.raises(RecipeError, match="prune first"):
            attach(target, form)


def test_a_scripted_module_is_refused():
    with pytest.raises(ModelError, match="scripted"):
        attach(match(torch.jit.script(nn.Sequential(nn.Linear(2, 2))), ("*",))[0], Dense())


@pytest.mark.parametrize("put", [prune, share, lambda m: (prune(m), share(m))])
def test_state_dict_round_trip_is_strict_and_complete(put):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))
    put(model)
    twin = copy.deepcopy(model)
    x = torch.randn(2, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        for target in match(model):
            form = form_of(target)
            if isinstance(form, Masked):
                form.keep(form.mask & mask_of(target, 3), latent_of(target))
    assert not torch.equal(model(x), twin(x))
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(model(x), twin(x))
    for ours, theirs in zip(match(model), match(twin), strict=True):
        assert torch.equal(form_of(ours).support, form_of(theirs).support)


def test_a_copy_is_independent():
    model = nn.Sequential(nn.Linear(4, 4))
    prune(model)
    model(torch.randn(2, 4)).sum().backward()
    copied = copy.deepcopy(copy.deepcopy(model))
    weight = model[0].weight.detach().clone()
    detach(match(copied)[0])
    with torch.no_grad():
        copied[0].weight.zero_()
    assert type(copied[0]) is nn.Linear and torch.equal(model[0].weight, weight)
    share(model)
    assert isinstance(form_of(match(model)[0]), Shared)


class Tied(nn.Module):
    """Encoder and decoder share one matrix, as language models do, and the decoder is used on its own too."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(11, 6)
        self.decoder = nn.Linear(6, 11)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens):
        return self.decoder(torch.tanh(self.encoder(tokens)))


@pytest.mark.parametrize("put", [prune, share, lambda m: (prune(m), share(m))])
def test_tied_parameters_stay_tied(put):
    model, tokens = Tied(), torch.arange(11)
    parameter = model.encoder.weight
    put(model)
    assert torch.equal(model.encoder.weight, model.decoder.weight)
    assert model.encoder.parametrizations.weight is model.decoder.parametrizations.weight
    assert sum(p is parameter for p in model.parameters()) == 1
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens), tokens).backward()
        optimizer.step()
    assert torch.equal(model.encoder.weight, model.decoder.weight)
    twin = copy.deepcopy(model)
    assert twin.encoder.parametrizations.weight is twin.decoder.parametrizations.weight
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(twin(tokens), model(tokens))
    weight = model.encoder.weight.detach().clone()
    (target,) = match(model)
    detach(target)
    assert model.encoder.weight is parameter and model.decoder.weight is parameter
    assert torch.equal(parameter, weight)
    assert (type(model.encoder), type(model.decoder)) == (nn.Embedding, nn.Linear)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("train", [True, False])
def test_recurrent_layers_compute_with_the_form(kind, train):
    torch.manual_seed(0)
    layer, plain = kind(5, 4, num_layers=2), kind(5, 4, num_layers=2)
    x = torch.randn(3, 2, 5)
    layer(x)  # fills whatever the layer keeps from one call to the next
    prune(layer)
    assert len(match(layer)) == 4
    plain.load_state_dict({t.name: weight_of(t) for t in match(layer)}, strict=False)
    with torch.no_grad():
        for name, bias in layer.named_parameters():
            if name.startswith("bias"):
                getattr(plain, name).copy_(bias)
    layer.train(train), plain.train(train)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    latent = layer.parametrizations.weight_hh_l0.original
    layer(x)[0].sum().backward()
    plain(x)[0].sum().backward()
    mask = layer.parametrizations.weight_hh_l0[0].mask
    torch.testing.assert_close(latent.grad, plain.weight_hh_l0.grad * mask)
    with torch.no_grad():
        latent.mul_(2)
        plain.weight_hh_l0.mul_(2)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        copied.parametrizations.weight_hh_l0.original.zero_()
        plain.weight_hh_l0.zero_()
        torch.testing.assert_close(copied(x)[0], plain(x)[0])
    for target in match(copied):
        detach(target)
    assert type(copied) is kind
    torch.testing.assert_close(copied(x)[0], plain(x)[0])
    assert type(layer) is not kind and not torch.equal(layer(x)[0], plain(x)[0])


@pytest.mark.parametrize("fast", [True, False])
def test_attention_computes_with_the_form(fast):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    plain, x = copy.deepcopy(layer), torch.randn(2, 5, 8)
    prune(layer)
    names = [target.name for target in match(layer)]
    assert names == ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    plain.load_state_dict({target.name: weight_of(target) for target in match(layer)}, strict=False)
    dense = copy.deepcopy(plain)
    for target in match(dense):
        target.module.get_parameter(target.attribute).data += 0.1
    with torch.set_grad_enabled(not fast):
        torch.testing.assert_close(layer(x), plain(x))
        assert not torch.allclose(layer(x), dense(x))
        torch.testing.assert_close(layer.self_attn(x, x, x)[0], plain.self_attn(x, x, x)[0])


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 3))
        self.many = nn.ParameterList([torch.randn(3, 3), torch.randn(3, 2)])
        self.named = nn.ParameterDict({"left": torch.randn(2, 2)})

    def forward(self, x):
        return F.linear(x, self.matrix) @ self.matrix @ self.many[0] @ self.many[1] @ self.named["left"]


def test_parameters_used_directly():
    model, x = Own(), torch.randn(5, 3)
    matrix, first = model.matrix.detach().clone(), model.many[0].detach().clone()
    second, left = model.many[1].detach().clone(), model.named["left"].detach().clone()
    masks = {target.name: mask_of(target) for target in match(model, ("*",))}
    assert list(masks) == ["matrix", "many.0", "many.1", "named.left"]
    prune(model, ("*",))
    matrix, first = matrix * masks["matrix"], first * masks["many.0"]
    second, left = second * masks["many.1"], left * masks["named.left"]
    torch.testing.assert_close(model(x), x @ matrix.T @ matrix @ first @ second @ left)


def test_assigning_a_weight_respects_the_form():
    layer = nn.Linear(4, 4)
    prune(layer)
    mask = form_of(match(layer)[0]).mask
    layer.weight = torch.full((4, 4), 2.0)
    assert torch.equal(layer.weight, 2.0 * mask)
    share(layer)
    layer.weight = torch.full((4, 4), 3.0)
    assert torch.equal(layer.weight, 3.0 * mask)


def test_moving_a_model_moves_its_forms():
    layer = nn.Linear(4, 4)
    prune(layer)
    share(layer)
    expected = layer.weight.detach().double()
    layer.double()
    assert layer.weight.dtype == torch.float64 and torch.equal(layer.weight, expected)
    assert layer.to("meta").weight.shape == (4, 4)
