"""Objects of the user's own: what is accepted, that it is honoured, and that its order follows from the seed."""

import random
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tersenet.core.errors import DataError
from tersenet.core.recipe import Augment, DataSpec
from tersenet.data import Batch, Source, Splits, as_splits, load_data

X = torch.arange(60.0).view(30, 2)
Y = torch.arange(30) % 3


class Rows(Dataset):
    """x, y as a user's dataset gives them, with noise from the global generators if asked for."""

    def __init__(self, count=30, noise=False):
        self.count, self.noise = count, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        drawn = torch.rand(()) + np.random.rand() + random.random() if self.noise else 0
        return X[index] + drawn, int(Y[index])


def rows(source, seed=None, batch_size=4, **ranks):
    return torch.cat([batch.inputs[0] for batch in source.batches(batch_size, seed=seed, **ranks)])


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        Rows(),
        DataLoader(Rows(), batch_size=5),
        DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True),
    ],
    ids=["tensors", "arrays", "tensor dataset", "dataset", "loader", "shuffling loader"],
)
def test_a_single_one_is_train_and_its_last_rows_are_validation(data):
    splits = as_splits(data, DataSpec(path="x", validation=6, normalize=False))
    for part in (splits.train, splits.validation):
        assert isinstance(part, Source)
    assert (len(splits.train), len(splits.validation), splits.test) == (24, 6, None)
    assert torch.equal(rows(splits.validation), X[24:])
    assert torch.equal(rows(splits.train, seed=1).sort(0).values, X[:24])
    (batch, *_) = splits.train.batches(5)
    assert torch.equal(batch.target, Y[(batch.inputs[0][:, 0] / 2).long()])


def test_three_in_a_tuple_and_names_in_a_mapping():
    parts = {"train": (X, Y), "val": (X[:9], Y[:9]), "test": (X[:5], Y[:5])}
    for data in (parts, tuple(parts.values())):
        splits = as_splits(data)
        assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [30, 9, 5]
        assert splits.classes == 3
    assert as_splits(splits) is splits
    mixed = as_splits({"train": Rows(), "test": DataLoader(Rows(5))})
    assert (len(mixed.train), len(mixed.validation), len(mixed.test)) == (27, 3, 5)


def test_tensors_without_specification_are_taken_as_they_are():
    assert torch.equal(rows(as_splits((X, Y)).train), X[:27])
    images = torch.full((30, 1, 2, 2), 255, dtype=torch.uint8)
    assert float(as_splits((images, Y)).train.example().inputs[0].max()) == 1
    tokens = torch.randint(0, 9, (30, 4))
    assert torch.equal(rows(as_splits((tokens, Y), DataSpec(path="x")).train), tokens[:27])  # numbers of words stay
    assert as_splits((X, X)).classes is None
    halves = as_splits((X.bfloat16().requires_grad_(), Y), DataSpec(path="x")).train.example().inputs[0]
    assert halves.dtype == torch.bfloat16 and not halves.requires_grad


def test_several_inputs_reach_the_model_in_order():
    splits = as_splits((X, X + 100, Y))
    batch = splits.train.example()
    assert torch.equal(batch.inputs[1], batch.inputs[0] + 100) and len(batch.inputs) == 2


@pytest.mark.parametrize(
    ("item", "inputs", "target"),
    [
        ((X, Y), 1, True),
        ([X, X, Y], 2, True),
        (((X, X), Y), 2, True),
        (({"a": X, "b": X}, Y), 2, True),
        ({"ids": X, "mask": X, "labels": Y}, 2, True),
        ({"target": Y, "x": X}, 1, True),
        ((X.numpy(), Y.numpy()), 1, True),
        (X, 1, False),
        ((X,), 1, False),
        (Batch((X,), Y), 1, True),
    ],
)
def test_every_usual_form_of_a_batch(item, inputs, target):
    class Loader:
        def __iter__(self):
            return iter([item])

    batch = as_splits({"train": Loader(), "validation": Loader()}).train.example()
    assert len(batch.inputs) == inputs and all(torch.equal(x, X) for x in batch.inputs)
    assert (batch.target is not None and torch.equal(batch.target, Y)) if target else batch.target is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Rows(noise=True), batch_size=7, shuffle=True),
        lambda: DataLoader(Rows(), batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(9)),
        lambda: DataLoader(Rows(), batch_size=7, shuffle=True, num_workers=1),
    ],
)
def test_a_loader_keeps_its_batch_size_and_its_order_follows_from_the_seed(make):
    splits = as_splits({"train": make(), "validation": make()})
    sizes = [len(batch) for batch in splits.train.batches(100, seed=1)]
    assert sizes == [7, 7, 7, 7, 2] and splits.train.batch_count(100) == 5
    one, again, other = (rows(splits.train, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    fresh = as_splits({"train": make(), "validation": make()})
    assert torch.equal(rows(fresh.train, seed=2), other)  # what was drawn before does not matter: so a run can resume


def test_numbers_drawn_in_a_pass_do_not_repeat_themselves():
    loader = DataLoader(Rows(noise=True), batch_size=1)
    drawn = rows(as_splits({"train": loader, "validation": loader}).train, seed=1)[:, 0] - X[:, 0]
    assert len(set(drawn.tolist())) == 30


def test_nothing_is_drawn_from_the_callers_generators():
    splits = as_splits({"train": DataLoader(Rows(noise=True), shuffle=True), "validation": Rows()})
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    passes = splits.train.batches(1, seed=0)
    for _ in range(3):
        next(passes)
        assert torch.equal(torch.get_rng_state(), before[0])
    torch.manual_seed(77)  # as dropout would draw between two batches
    drawn = torch.rand(3)
    rest = torch.cat([batch.inputs[0] for batch in passes])
    torch.manual_seed(77)
    assert torch.equal(torch.rand(3), drawn)
    torch.set_rng_state(before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert torch.equal(rows(splits.train, seed=0)[3:], rest)


def test_ranks_share_the_batches_of_a_loader():
    source = as_splits({"train": DataLoader(Rows(), batch_size=4, shuffle=True), "validation": Rows()}).train
    parts = [list(source.batches(4, seed=3, rank=rank, world=3)) for rank in range(3)]
    assert {len(part) for part in parts} == {source.batch_count(4, 3)} == {2}
    seen = torch.cat([batch.inputs[0][:, 0] for part in parts for batch in part])
    assert len(set(seen.tolist())) == len(seen)
    exact = [len(batch) for rank in range(3) for batch in source.batches(4, rank=rank, world=3)]
    assert sum(exact) == 30
    with pytest.raises(DataError, match="8 batches are too few for 9 processes"):
        source.batch_count(4, 9)


def test_sets_of_datasets_in_memory(png, grey):
    import datasets

    images, labels = grey(12)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abc"))})
    rows_ = {"image": [{"bytes": png(image), "path": None} for image in images], "label": labels}
    table = datasets.Dataset.from_dict(rows_, features=features)
    splits = as_splits(datasets.DatasetDict(train=table, test=table), DataSpec(path="x", normalize=False, validation=2))
    assert splits.classes == 3 and (len(splits.train), len(splits.test)) == (10, 12)
    batch = next(splits.test.batches(12))
    assert np.array_equal((batch.inputs[0][:, 0] * 255).round().byte().numpy(), images)
    assert batch.target.tolist() == labels
    dark = table.with_transform(lambda rows: {"x": [torch.zeros(2)] * len(rows["label"]), "label": rows["label"]})
    batch = as_splits({"train": dark}).train.example()
    assert batch.inputs[0].tolist() == [[0, 0], [0, 0]] and batch.target.tolist() == labels[:2]


def test_the_digest_follows_the_data():
    assert as_splits((X, Y)).digest == as_splits((X.clone(), Y.clone())).digest != as_splits((X + 1, Y)).digest
    loaders = [DataLoader(Rows(count), batch_size=4) for count in (30, 30, 29)]
    one, same, shorter = (as_splits({"train": loader, "validation": loader}).digest for loader in loaders)
    assert one == same != shorter


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])] * 8)


class Broken(Rows):
    def __getitem__(self, index):
        raise KeyError("missing")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (((X, Y), (X, Y)), "a tuple of 2 does not say what is what; name them, {'train': …, 'test': …}"),
        ({"train": (X, Y), "tset": (X, Y)}, "unknown split 'tset'; did you mean 'test'?"),
        ({"test": (X, Y)}, "there is no split 'train'; there are: test"),
        ({"train": (X, Y), "val": (X, Y), "dev": (X, Y)}, "two validation splits"),
        ({"train": (X, Y), "test": DataLoader(Rows())}, "all splits as tensors, or all as datasets or loaders"),
        ((X, Y[:3]), "tensors have different lengths: 30, 3"),
        ((X * torch.nan, Y), "example 0 holds NaN or infinity"),
        ((X, Y - 1), "label -1 of example 0 is out of range; labels must be 0 or more"),
        ((X[:0], Y[:0]), "train is empty"),
        (DataLoader(Rows(0)), "leave none of the 0"),
        ({"train": Rows(), "test": Rows(0)}, "test is empty"),
        ({"train": Rows(40), "validation": Broken()}, "validation: reading the first batch raised KeyError: 'missing'"),
        ({"train": [], "validation": []}, "train is empty"),
        (
            {"train": [(X, "label")], "validation": [(X, Y)]},
            "found str where a tensor should be; a batch must be (x, y)",
        ),
        ({"train": [{"x": X, "y": Y}], "validation": [(X, Y)]}, "a batch has only x, y; a batch must be"),
        ({"train": [{"label": Y, "target": Y, "x": X}], "validation": [(X, Y)]}, "a batch has label and target"),
        ({"train": [(X, Y[:2])], "validation": [(X, Y)]}, "different lengths: 30, 2"),
        ([(X, Y)], "nothing can be held out of this train"),
        (iter([(X, Y)]), "can be gone through only once"),
        (Endless(), "give DataLoader(dataset, batch_size=…)"),
        (3, "cannot use int; give tensors (x, y), a Dataset or a DataLoader"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_sentence(data, said):
    with pytest.raises(DataError) as caught:
        as_splits(data)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_loader_without_length_cannot_be_trained_on():
    loader = DataLoader(Endless(), batch_size=2)
    splits = as_splits({"train": loader, "validation": loader})
    with pytest.raises(DataError, match="the loader has no length"):
        splits.train.batch_count(2)


def test_what_a_loader_yields_is_not_changed_behind_its_back():
    for options in ({"augment": Augment(flip=True)}, {"normalize": True}):
        with pytest.raises(DataError, match="change tensors only"):
            as_splits(Rows(), DataSpec(path="x", **options))


FACTORY = """
import torch
from tersenet.core.errors import DataError

def points(count, split="train"):
    x = torch.arange(count * 2.0).view(count, 2)
    return {split: (x, torch.arange(count) % 2)}

def broken():
    raise OSError("the disk is gone\\nsecond line")

constant = 3
"""


def test_a_factory_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_own_data.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    path = list(sys.path)
    splits = load_data(DataSpec(factory="my_own_data:points", kwargs={"count": 20}, validation=4))
    assert isinstance(splits, Splits) and (len(splits.train), splits.name) == (16, "my_own_data:points")
    assert abs(float(rows(splits.train).mean())) < 1e-6  # tensors are normalised as the specification says
    assert sys.path == path
    for factory, kwargs, said in [
        ("my_own_data:broken", {}, "factory my_own_data:broken raised OSError: the disk is gone"),
        ("my_own_data:point", {}, "there is no 'point' in it; did you mean 'points'?"),
        ("my_own_data:points", {"n": 3}, "raised TypeError: points() got an unexpected keyword argument 'n'"),
        ("my_own_data:points", {"count": 4, "split": "trian"}, "unknown split 'trian'; did you mean 'train'?"),
        ("my_own_data:constant", {}, "it is a int, not a function"),
        ("my_own_dat:points", {}, "there is no module 'my_own_dat', neither installed nor in the current directory"),
    ]:
        with pytest.raises(DataError) as caught:
            load_data(DataSpec(factory=factory, kwargs=kwargs))
        assert said in str(caught.value) and "\n" not in str(caught.value)
