"""Memory of activations: which tensors are alive while each operator of a pass runs.

A tensor is alive from the operator that makes it to the last one that reads it; the model's inputs from the start, its
outputs to the end. Views and what is done in place share their storage, which counts once and whole. Operators run in
the order in which the model's code calls them, one at a time, each writing its own result: no fusion, no reordering,
and no memory that an operator takes for itself (such as unfolded images), but all that it returns, also what nobody
reads (such as the places of the maxima that pooling returns). Weights are not counted. An eager run of
PyTorch needs more where a variable of the model's code still names a tensor that nobody reads any more.
"""

from __future__ import annotations

from itertools import accumulate

from tersenet.measure.operations import Pass


def live_bytes(found: Pass) -> list[int]:
    """Bytes of activations alive while each operator runs, in order."""
    first = dict.fromkeys(found.given, 0)
    last: dict[int, int] = {}
    for number, operation in enumerate(found.operations):
        for storage in operation.reads | operation.writes:
            first.setdefault(storage, number)
            last[storage] = number
    end = len(found.operations) - 1
    last.update((storage, end) for storage in found.returned if storage in first)
    changes = [0] * (len(found.operations) + 1)
    for storage, until in last.items():
        changes[first[storage]] += found.sizes[storage]
        changes[until + 1] -= found.sizes[storage]
    return list(accumulate(changes[:-1]))


def peak_bytes(found: Pass) -> int:
    """The most that is alive at once."""
    return max(live_bytes(found), default=0)
