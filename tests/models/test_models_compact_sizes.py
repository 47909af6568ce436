"""The compact architectures by image size, width and groups, and what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tersenet.core.errors import ModelError
from tersenet.core.recipe import ModelSpec
from tersenet.graph import ChannelGraph
from tersenet.measure.macs import count_macs
from tersenet.models import build, skeleton
from tersenet.models.compact import multiple, normed

LEAST = {  # model → height of the smallest image, of which a single position is left
    **{"ghostnet": 16, "googlenet": 8, "mobilenet_v1": 16, "mobilenet_v2": 8, "shufflenet_v1": 8},
    **{"squeezenet1_0": 8, "squeezenet1_1": 8, "xception": 16},
}
NAMES = list(LEAST)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def on_meta(name, **kwargs):
    with torch.device("meta"):
        return skeleton(ModelSpec(name=name, kwargs=kwargs))


def sides(name, image, **kwargs):
    """Heights of what the convolutions give, in order, but for those after the mean over all positions."""
    model, found = on_meta(name, image=image, **kwargs), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, given, made: found.append(made.shape[-1]))
    model.eval()(torch.empty(1, 3, image, image, device="meta"))
    return [side for side in found if side > 1]


@pytest.mark.parametrize("name", NAMES)
def test_small_images_are_halved_less_often(name):
    small, large = sides(name, 32), sides(name, 224)
    assert small[0] == 32 and small[-1] == (2 if LEAST[name] == 16 else 4)
    assert large[0] in (109, 111, 112) and large[-1] in (7, 13)
    assert sides(name, 95)[0] == 95 and sides(name, 96)[0] < 49


@pytest.mark.parametrize(("resolution", "image"), [(0.5, 112), (0.75, 168), (6 / 7, 192)])
def test_the_resolution_multiplier_costs_what_smaller_images_cost(resolution, image):
    """Howard et al. 2017, §3.4."""
    scaled, smaller = on_meta("mobilenet_v1", resolution=resolution), on_meta("mobilenet_v1", image=image)
    found = [
        count_macs(model, torch.empty(1, 3, side, side, device="meta"))
        for model, side in ((scaled, 224), (smaller, image))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(("resolution", "side"), [(0.5, 16), (0.75, 24)])
def test_the_resolution_multiplier_scales_images_as_pillow_does(resolution, side):
    model = build(ModelSpec(name="mobilenet_v1", kwargs={"image": 32, "resolution": resolution, "width": 0.25}), 0)
    x, seen = torch.rand(1, 3, 32, 32), []
    model.features.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.eval()(x)
    for channel, scaled in zip(x[0], seen[0][0], strict=True):
        expected = Image.fromarray(channel.numpy()).resize((side, side), Image.Resampling.BILINEAR)
        torch.testing.assert_close(scaled, torch.from_numpy(np.array(expected)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "first", "last"), [(0.6, 19, 614), (0.01, 8, 10), (1.5, 48, 1536)])
def test_mobilenets_filters_are_cut_to_whole_ones_and_at_least_eight(width, first, last):
    model = on_meta("mobilenet_v1", width=width)
    assert (model.features[0][0].out_channels, model.classifier.in_features) == (first, last)


@given(st.floats(0.01, 3000), st.integers(1, 16))
def test_rounded_widths_are_near_and_never_much_less(channels, of):
    found = multiple(channels, of)
    assert found % of == 0 and found >= max(of, 0.9 * channels) and found - channels <= of


def test_widths_round_as_in_the_published_networks():
    assert [multiple(0.35 * width, 8) for width in (32, 16, 24, 64, 96, 160, 320)] == [16, 8, 8, 24, 32, 56, 112]
    assert [multiple(0.75 * width, 8) for width in (32, 16, 24, 64, 96, 160, 320)] == [24, 16, 24, 48, 72, 120, 240]


@pytest.mark.parametrize(("activation", "gain"), [(nn.ReLU, 2), (nn.ReLU6, 2), (None, 1)])
@pytest.mark.parametrize("groups", [1, 2, 64])
def test_weights_start_so_that_sizes_stay_also_in_groups(activation, gain, groups):
    weight = normed(64, 1024, 5, groups=groups, activation=activation)[0].weight.detach()
    assert abs(float(weight.var()) * 25 * 64 / groups / gain - 1) < 0.05 and abs(float(weight.mean())) < 0.01


@pytest.mark.parametrize(("groups", "some"), [(3, False), (8, True)])
def test_channels_of_shufflenet_go_where_the_groups_divide_the_groups(groups, some):
    """With 3 groups of 20 channels a group reads 7 or 6 channels of each other, so that no number can go from all."""
    model = build(ModelSpec(name="shufflenet_v1", kwargs={"image": 32, "groups": groups}), 0).eval()
    found = ChannelGraph(model, torch.randn(1, 3, 32, 32))
    assert any(group.prunable for group in found) is some and not found.unknown
    assert some or all(group.reason for group in found)
    assert any("cuts across its units" in (group.reason or "") for group in found)


@pytest.mark.parametrize(
    ("name", "kwargs", "said"),
    [
        *((name, {"image": 7}, f"images must be at least {least} pixels high, not 7") for name, least in LEAST.items()),
        *((name, {"width": 0.0}, "width must be above 0, not 0.0") for name in (
            "mobilenet_v1", "mobilenet_v2", "shufflenet_v1", "xception", "ghostnet",
        )),
        ("mobilenet_v1", {"width": -1}, "width must be above 0, not -1"),
        ("mobilenet_v1", {"width": True}, "width must be a number"),
        ("mobilenet_v1", {"resolution": 0}, "resolution must be above 0 and at most 1, not 0"),
        ("mobilenet_v1", {"resolution": 1.5}, "resolution must be above 0 and at most 1, not 1.5"),
        ("mobilenet_v1", {"image": 32, "resolution": 0.25}, "images must be at least 16 pixels high, not 8"),
        ("mobilenet_v1", {"shallow": 1}, "shallow must be true or false"),
        ("shufflenet_v1", {"groups": 5}, "groups must be one of 1, 2, 3, 4, 8, not 5"),
        ("squeezenet1_1", {"width": 0.5}, "unknown argument 'width'"),
    ],
)  # fmt: skip
def test_arguments_that_are_wrong(name, kwargs, said):
    with pytest.raises(ModelError) as caught:
        build(ModelSpec(name=name, kwargs=kwargs), 0)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_least_image_is_one_it_can_take(name):
    model = build(ModelSpec(name=name, kwargs={"image": LEAST[name]}), 0).eval()
    assert model(torch.randn(1, 3, LEAST[name], LEAST[name])).shape == (1, 1000)
