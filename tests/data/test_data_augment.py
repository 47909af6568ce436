"""Augmentation against a picture-by-picture reading of the definition, and against Pillow."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from tersenet.core.recipe import Augment
from tersenet.core.seeds import generator
from tersenet.data.augment import augment, shift


@pytest.fixture
def images():
    return torch.randint(1, 256, (40, 3, 7, 9), dtype=torch.uint8, generator=generator(0, "images"))


def moved(image, down, right):
    """`image` [C, H, W] moved by whole pixels, zeros moved in."""
    height, width = image.shape[1:]
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                out[:, y, x] = image[:, y - down, x - right]
    return out


def test_shift_is_one_of_the_moves_within_reach(images):
    result = shift(images, 2, generator(1, "shift"))
    found = set()
    for before, after in zip(images, result, strict=True):
        fits = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if torch.equal(moved(before, d, r), after)]
        assert len(fits) == 1
        found.add(fits[0])
    assert len(found) > 10  # images move on their own, both ways
    assert {d for d, _ in found} == {r for _, r in found} == {-2, -1, 0, 1, 2}


def test_flip_mirrors_about_half_of_the_images(images):
    many = images.repeat(25, 1, 1, 1)
    result = augment(many, Augment(flip=True), generator(1, "flip"))
    flipped = (result == many.flip(-1)).flatten(1).all(1)
    kept = (result == many).flatten(1).all(1)
    assert torch.equal(flipped, ~kept)
    assert 400 < int(flipped.sum()) < 600


def test_nothing_asked_for_changes_nothing(images):
    assert augment(images, Augment(), generator(0, "x")) is images


def test_the_same_generator_gives_the_same_batch_and_another_one_another(images):
    options = Augment(shift=2, flip=True, rotate=20, scale=0.1)
    one, again, other = (augment(images, options, generator(seed, "x")) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.dtype == torch.uint8 and one.shape == images.shape


def blob(height, width):
    """A smooth picture [1, 1, H, W] with no symmetry."""
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    picture = torch.exp(-((x - 5) ** 2 + (y + 3) ** 2) / 18) + 0.5 * torch.exp(-((x + 6) ** 2 + (y - 2) ** 2) / 12)
    return picture.view(1, 1, height, width)


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_turning_is_what_pillow_does(size, monkeypatch):
    picture = blob(*size)
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.tensor([[1.0], [0.5]]))  # +30°, zoom 1
    turned = augment(picture, Augment(rotate=30), generator(0, "x"))[0, 0].numpy()
    reference = Image.fromarray(picture[0, 0].numpy())
    expected = [np.asarray(reference.rotate(angle, Image.Resampling.BILINEAR)) for angle in (30, -30)]
    assert min(np.abs(turned - one).max() for one in expected) < 0.02


def test_zoom_is_a_zoom_about_the_middle(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.tensor([[0.5], [1.0]]))  # no turn, zoom 1.5
    zoomed = augment(blob(32, 32), Augment(scale=0.5), generator(0, "x"))[0, 0].numpy()
    reference = Image.fromarray(blob(32, 32)[0, 0].numpy())
    inner = 32 / 1.5 / 2
    box = (16 - inner, 16 - inner, 16 + inner, 16 + inner)
    expected = np.asarray(reference.resize((32, 32), Image.Resampling.BILINEAR, box=box))
    assert np.abs(zoomed - expected)[2:-2, 2:-2].max() < 0.02


def test_turns_stay_within_what_was_asked_for():
    """The direction of a bright point right of the middle tells by how much each picture was turned."""
    picture = torch.zeros(200, 1, 41, 41)
    picture[:, :, 20, 35] = 1
    turned = augment(picture, Augment(rotate=15), generator(3, "x"))[:, 0]
    mass = turned.sum((1, 2))
    y = (turned.sum(2) * torch.arange(41)).sum(1) / mass - 20
    x = (turned.sum(1) * torch.arange(41)).sum(1) / mass - 20
    angles = torch.atan2(y, x) * 180 / math.pi
    assert 13 < float(angles.abs().max()) < 16
    assert -2 < float(angles.mean()) < 2
