"""Random changes to whole batches of images as tensor operations."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from tersenet.core.recipe import Augment


def augment(images: torch.Tensor, options: Augment, generator: torch.Generator) -> torch.Tensor:
    """[B, C, H, W] of any dtype → the same shape and dtype; each image is changed on its own, zeros moved in.

    Shift by whole pixels and flip only move pixels about; turning and zooming interpolate bilinearly.
    """
    if options.flip:
        flipped = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
    if options.rotate or options.scale:
        images = _turn_and_zoom(images, options, generator)
    if options.shift:
        images = shift(images, options.shift, generator)
    return images


def shift(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by its own whole number of pixels in [−most, most] along each axis."""
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * most + 1, (2, count), generator=generator)
    windows = F.pad(images, (most,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # [B, C, 2s+1, 2s+1, H, W], a view
    return windows[torch.arange(count), :, offsets[0], offsets[1]]


def _turn_and_zoom(images: torch.Tensor, options: Augment, generator: torch.Generator) -> torch.Tensor:
    count, _, height, width = images.shape
    draws = torch.rand(2, count, generator=generator) * 2 - 1  # [2, B] in [−1, 1)
    angle = draws[0] * math.radians(options.rotate)
    zoom = 1 + draws[1] * options.scale
    cos, sin, zero = angle.cos() / zoom, angle.sin() / zoom, torch.zeros(count)
    # affine_grid works in coordinates of [−1, 1] along each axis, whatever its length: a turn of a picture that is
    # not square needs the ratio of its sides, or it would shear.
    rows = (torch.stack((cos, -sin * (height / width), zero), 1), torch.stack((sin * (width / height), cos, zero), 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)  # [B, H, W, 2]
    moved = F.grid_sample(images.float(), grid, align_corners=False)
    return moved if images.is_floating_point() else moved.round_().to(images.dtype)
