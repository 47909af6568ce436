"""Splits in memory: statistics, validation, batches, and what is refused."""

import hashlib
import time

import numpy as np
import pytest
import torch

from tersenet.core.errors import DataError
from tersenet.core.recipe import Augment, DataSpec
from tersenet.data import Batch, load_data
from tersenet.data.decoded import Decoded, kept_rows, to_splits
from tersenet.data.prepare import Prepare, statistics
from tersenet.data.source import Source
from tersenet.data.tensors import TensorSource, tensor_digest


def pictures(count, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, 5, 4), dtype=torch.uint8, generator=generator)
    return Decoded((images,), torch.arange(count) % 4)


def whole(source):
    return torch.cat([batch.inputs[0] for batch in source.batches(7)])


def test_digits_is_all_of_sklearns_digits():
    from sklearn.datasets import load_digits

    splits = load_data(DataSpec(path="digits", normalize=False, validation=200))
    assert (len(splits.train), len(splits.validation), len(splits.test), splits.classes) == (1237, 200, 360, 10)
    ours = torch.cat([whole(part) for part in (splits.train, splits.validation, splits.test)])
    pixels = load_digits().data
    assert ours.shape == (1797, 1, 8, 8)
    rows = np.round(ours.view(-1, 64).numpy() * 16)
    assert np.array_equal(rows[np.lexsort(rows.T)], pixels[np.lexsort(pixels.T)])


def test_normalised_train_has_mean_zero_and_deviation_one_and_validation_is_not_looked_at():
    parts = {"train": pictures(100), "test": pictures(30, seed=1)}
    parts["train"].inputs[0][80:] //= 4  # validation is darker: if it were looked at, train would not come out even
    splits = to_splits(parts, DataSpec(path="x", validation=20), "x", 4)
    train = whole(splits.train)
    torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    raw = parts["train"].inputs[0][:80].double()
    mean, deviation = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), keepdim=True, correction=0)
    expected = (parts["test"].inputs[0] - mean) / deviation
    torch.testing.assert_close(whole(splits.test), expected.float(), atol=1e-5, rtol=1e-5)


def test_the_last_rows_of_train_are_the_validation_set():
    splits = to_splits({"train": pictures(50)}, DataSpec(path="x", validation=0.2, normalize=False), "x", 4)
    assert torch.equal(whole(splits.validation), pictures(50).inputs[0][40:].float() / 255)
    assert torch.equal(whole(splits.train), pictures(50).inputs[0][:40].float() / 255)
    assert splits.test is None


def test_an_explicit_validation_split_is_used_as_it_is():
    parts = {"train": pictures(50), "validation": pictures(11, seed=2)}
    splits = to_splits(parts, DataSpec(path="x", normalize=False), "x", 4)
    assert (len(splits.train), len(splits.validation)) == (50, 11)


def test_augmentation_touches_training_batches_only():
    spec = DataSpec(path="x", augment=Augment(shift=2), normalize=False, validation=10)
    splits = to_splits({"train": pictures(50), "test": pictures(20)}, spec, "x", 4)
    for part in (splits.train, splits.validation, splits.test):
        plain = whole(part)
        assert torch.equal(whole(part), plain)
    plain = whole(splits.train).flatten(1).tolist()
    drawn = torch.cat([batch.inputs[0] for batch in splits.train.batches(8, seed=1)]).flatten(1).tolist()
    assert sum(image in plain for image in drawn) < 20
    evaluated = next(splits.validation.batches(10, seed=1)).inputs[0].flatten(1).tolist()
    assert sorted(evaluated) == sorted(whole(splits.validation).flatten(1).tolist())


def test_a_batch_is_rows_with_their_labels():
    source = TensorSource((torch.arange(20.0).view(20, 1),), torch.arange(20))
    assert isinstance(source, Source)
    for seed in (None, 3):
        for batch in source.batches(6, seed=seed):
            assert torch.equal(batch.inputs[0][:, 0].long(), batch.target)
    first, second = ([batch.target.tolist() for batch in source.batches(6, seed=5)] for _ in range(2))
    assert first == second
    assert source.example().target.tolist() == [0, 1]
    assert len(source.example()) == 2
    assert source.batch_count(6) == len(first)


def test_a_channel_that_never_changes_becomes_zero():
    mean, deviation = statistics([torch.full((4, 1, 2, 2), 7.0)])
    assert Prepare(mean, deviation)(torch.full((1, 1, 2, 2), 7.0)).abs().max() == 0


def test_statistics_of_a_far_off_mean_are_still_those_of_numpy():
    rows = 1e6 + torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, deviation = statistics(rows.split(64))
    np.testing.assert_allclose(mean, rows.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(deviation, rows.numpy().std(0), rtol=1e-3)


def test_digest_is_blake2b_of_the_bytes_and_changes_with_any_of_them():
    tensor = torch.tensor([1, 2, 3], dtype=torch.int32)
    plain = hashlib.blake2b(b"torch.int32(3,)" + bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]), digest_size=8)
    assert tensor_digest([tensor]) == plain.hexdigest()
    parts = {"train": pictures(50)}
    spec = DataSpec(path="x", validation=10)
    digest = to_splits(parts, spec, "x", 4).digest
    parts["train"].inputs[0][45] += 1  # of validation
    assert to_splits(parts, spec, "x", 4).digest == digest
    parts["train"].inputs[0][3, 0, 0, 0] += 1
    assert to_splits(parts, spec, "x", 4).digest != digest


def test_batch_moves_as_one():
    batch = Batch((torch.ones(2, 3),), None).to("meta")
    assert batch.inputs[0].device.type == "meta" and batch.target is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:0], y[:0]), "data: train is empty"),
        (
            lambda x, y: (x, torch.where(y == 2, -1, y)),
            "label -1 of example 2 is out of range; labels must be in [0, 4)",
        ),
        (lambda x, y: (x, torch.where(y == 1, 9, y)), "label 9 of example 1 is out of range"),
        (lambda x, y: (x, y.float()), "labels must be integers, one for each example, not float32 of shape [50]"),
        (lambda x, y: (x, None), "train has no labels"),
        (lambda x, y: (x.float().index_fill(0, torch.tensor(7), torch.nan), y), "example 7 holds NaN"),
    ],
)
def test_bad_data_is_one_sentence(change, said):
    good = pictures(50)
    x, y = change(good.inputs[0], good.target)
    with pytest.raises(DataError) as caught:
        to_splits({"train": Decoded((x,), y)}, DataSpec(path="x"), "data", 4)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_validation_must_leave_something_to_train_on():
    assert (kept_rows(60000, 5000, "x"), kept_rows(60000, 0.1, "x"), kept_rows(3, 0.01, "x")) == (55000, 54000, 2)
    with pytest.raises(DataError, match="leave none of the 10"):
        kept_rows(10, 10, "x")


def test_an_epoch_of_batches_is_quick():
    """55,000 images of 28×28 in batches of 128, normalised: 0.08 s on one core of a laptop, 0.16 s with shifts."""
    images = torch.zeros(55000, 1, 28, 28, dtype=torch.uint8)
    source = TensorSource(
        (images,), torch.zeros(55000, dtype=torch.long), [Prepare(torch.ones(1), torch.ones(1), Augment(shift=2))]
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = time.process_time()
        assert sum(len(batch) for batch in source.batches(128, seed=0)) == 55000
        assert time.process_time() - began < 1.5
    finally:
        torch.set_num_threads(threads)
