"""A whole model as codes and back."""

import numpy as np
import pytest
import torch
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.forms import Masked, Shared, aliases, attach, encode_model, load_codes, match, plain_state


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("scratch", torch.rand(5), persistent=False)


def formed() -> Net:
    torch.manual_seed(0)
    model = Net()
    attach(match(model, ("conv",))[0], Masked(torch.rand(2, 1, 3, 3) < 0.5))
    attach(match(model, ("encoder",))[0], Shared(torch.randint(0, 3, (4, 4)), 2, zero=True))
    return model


def test_every_stored_tensor_once_under_its_plain_name():
    codes = encode_model(formed())
    assert set(codes) | set(aliases(formed())) == set(Net().state_dict())
    assert aliases(formed()) == aliases(Net()) == {"decoder.weight": "encoder.weight"}
    assert set(codes) & set(aliases(formed())) == set()
    forms = {name: code.form for name, code in codes.items() if code.form != "dense"}
    assert forms == {"conv.weight": "masked", "encoder.weight": "shared"}
    assert codes["steps"].tables["values"].dtype == np.int64
    assert codes["norm.running_var"].tables["values"].dtype == np.float16
    assert encode_model(formed(), "float32")["norm.running_var"].tables["values"].dtype == np.float32
    assert set(plain_state(formed())) == set(codes)


def test_load_gives_back_the_weights_that_were_computed_with():
    model, fresh = formed(), Net()
    load_codes(fresh, encode_model(model, "float32"), aliases(model))
    for name, tensor in plain_state(model).items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    assert fresh.decoder.weight is fresh.encoder.weight
    load_codes(fresh, encode_model(model), aliases(model))
    assert torch.equal(fresh.norm.weight, model.norm.weight.half().float())
    assert torch.equal(fresh.conv.weight, model.conv.weight), "what has a form is exact at any precision"


def test_a_file_of_shared_tensors_loads_into_a_model_that_does_not_share():
    model, fresh = formed(), Net()
    fresh.decoder.weight = nn.Parameter(torch.zeros(4, 4))
    load_codes(fresh, encode_model(model), aliases(model))
    assert torch.equal(fresh.decoder.weight, model.encoder.weight)


def test_a_model_that_shares_does_not_take_two_tensors():
    apart = Net()
    apart.decoder.weight = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(ModelError, match=r"shares 'decoder\.weight' with 'encoder\.weight'"):
        load_codes(Net(), encode_model(apart), aliases(apart))


def test_names_shapes_and_types_must_agree():
    codes, names = encode_model(Net()), aliases(Net())
    with pytest.raises(ModelError, match=r"the model has 'conv\.bias' but the file has not"):
        load_codes(Net(), {name: code for name, code in codes.items() if name != "conv.bias"}, names)
    with pytest.raises(ModelError, match="the file has 'more' but the model has not"):
        load_codes(Net(), {**codes, "more": codes["steps"]}, names)
    with pytest.raises(ModelError, match=r"'conv\.bias' is .* of shape \(2,\) in the model and .*\(3,\) in the file"):
        load_codes(Net(), {**codes, "conv.bias": codes["steps"]}, names)
    with pytest.raises(ModelError, match=r"'conv\.weight' is torch\.float64"):
        load_codes(Net().double(), codes, names)
    with pytest.raises(ModelError, match="already has a form"):
        load_codes(formed(), codes, names)


def test_nan_names_the_tensor():
    model = Net()
    with torch.no_grad():
        model.norm.bias[1] = torch.nan
    with pytest.raises(ModelError, match=r"norm\.bias: holds NaN"):
        encode_model(model)


def test_what_cannot_be_stored_is_an_error():
    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

    with pytest.raises(ModelError, match="layer '0' keeps extra state"):
        encode_model(nn.Sequential(Extra(2, 2)))
    with pytest.raises(ModelError, match="has no shape yet"):
        encode_model(nn.Sequential(nn.LazyLinear(2)))


def test_parametrizations_of_the_user_keep_their_names():
    def build():
        return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))

    model, fresh = build(), build()
    assert set(encode_model(model)) == set(model.state_dict())
    load_codes(fresh, encode_model(model, "float32"), aliases(model))
    assert torch.equal(fresh[0].weight, model[0].weight)
