"""Sizes of the dense file against the format's own arithmetic and against zstd run a second time."""

import json
import struct

import pytest
import torch
import zstandard
from safetensors.torch import save
from torch import nn

from tersenet.measure.size import dense_sizes, fp32_state


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40), nn.Linear(40, 3))


def test_the_file_is_header_and_four_bytes_for_each_number():
    net = model()
    with torch.no_grad():
        net[0].weight.mul_(20).round_()  # something for zstd to find
    plain, squeezed = dense_sizes(net)
    data = save({name: tensor.clone() for name, tensor in net.state_dict().items()})
    (header,) = struct.unpack("<Q", data[:8])
    assert set(json.loads(data[8 : 8 + header])) == set(net.state_dict())
    numbers = sum(tensor.numel() for tensor in net.state_dict().values())
    assert plain == 8 + header + 4 * (numbers - 1) + 8  # one of them is BatchNorm's int64 count
    assert squeezed == pytest.approx(len(zstandard.ZstdCompressor(level=19).compress(data)), rel=0.01)
    assert dense_sizes(net) == (plain, squeezed)


def test_zeros_make_the_squeezed_file_small_and_leave_the_plain_one():
    net = model()
    plain, squeezed = dense_sizes(net)
    with torch.no_grad():
        net[0].weight.zero_()
    emptied = dense_sizes(net)
    assert emptied[0] == plain and emptied[1] < squeezed / 3


def test_half_precision_counts_as_fp32_and_shared_parameters_once():
    net = model()
    plain, _ = dense_sizes(net)
    assert dense_sizes(net.half())[0] == plain
    tied = nn.Sequential(nn.Linear(9, 9, bias=False), nn.Linear(9, 9, bias=False))
    tied[1].weight = tied[0].weight
    assert list(fp32_state(tied)) == ["0.weight"]
    assert dense_sizes(tied)[0] < 9 * 9 * 4 * 2


def test_empty_and_transposed_tensors_are_written():
    net = nn.Module()
    net.register_buffer("empty", torch.zeros(0, 3))
    net.register_buffer("other", torch.zeros(0, 3))
    net.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    state = fp32_state(net)
    assert list(state) == ["empty", "other", "turned"]
    assert dense_sizes(net)[0] > 24


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dense_sizes(model())
    assert list(tmp_path.iterdir()) == []
