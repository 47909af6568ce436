"""Which example comes in which batch: against the definition, for any length, batch size and number of ranks."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tersenet.data.order import batch_count, batch_indices

sizes = st.integers(1, 200)
batch_sizes = st.integers(1, 50)
worlds = st.integers(1, 5)


def ranks(length, batch_size, seed, world):
    return [[b.tolist() for b in batch_indices(length, batch_size, seed, rank, world)] for rank in range(world)]


@given(sizes, batch_sizes, worlds)
def test_evaluation_sees_every_example_once(length, batch_size, world):
    seen = [i for rank in ranks(length, batch_size, None, world) for batch in rank for i in batch]
    assert sorted(seen) == list(range(length))


@given(sizes, batch_sizes)
def test_evaluation_on_one_rank_keeps_the_order(length, batch_size):
    (only,) = ranks(length, batch_size, None, 1)
    assert [i for batch in only for i in batch] == list(range(length))
    assert all(len(batch) == batch_size for batch in only[:-1])


@given(sizes, st.integers(2, 50), worlds)
def test_evaluation_has_as_many_batches_on_every_rank(length, batch_size, world):
    counts = {len(rank) for rank in ranks(length, batch_size, None, world) if rank}
    assert len(counts) == 1


@given(sizes, batch_sizes, worlds, st.integers(0, 99))
def test_training_gives_every_rank_the_same_work(length, batch_size, world, seed):
    parts = ranks(length, batch_size, seed, world)
    assert {len(part) for part in parts} == {batch_count(length, batch_size, world)}
    assert len({tuple(map(len, part)) for part in parts}) == 1
    seen = [i for part in parts for batch in part for i in batch]
    if length >= world:
        assert len(set(seen)) == len(seen) == length - length % world
    assert all(len(batch) <= batch_size for part in parts for batch in part)


def test_a_pass_is_a_shuffle_that_depends_on_the_seed():
    one, again, other = (torch.cat(list(batch_indices(1000, 64, seed, 0, 1))) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one == torch.arange(1000)).sum() < 10  # a shuffle has one fixed point on average


def test_no_batch_of_one_where_batch_norm_could_not_train():
    assert [len(batch) for batch in batch_indices(129, 64, 0, 0, 1)] == [64, 63, 2]
    assert [len(batch) for batch in batch_indices(130, 64, 0, 0, 1)] == [64, 64, 2]
