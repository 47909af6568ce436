"""What is written comes back, equal in every bit, and every byte of the file is accounted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet import artifact
from tersenet.artifact import Contents
from tersenet.artifact.entry import DTYPES
from tersenet.core.change import Change
from tersenet.core.code import Code, Symbols
from tersenet.core.errors import ArtifactError
from tersenet.core.seeds import derive

Same = Callable[[Contents, Contents], None]

words = st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(words, json_values, max_size=4)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
tables = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(np.dtype(name).newbyteorder(">" if len(name) % 2 else "<"), shapes)
)


@st.composite
def symbols(draw: st.DrawFn) -> Symbols:
    alphabet = draw(st.sampled_from([1, 2, 3, 17, 256, 70_000, 2**20]))
    values = draw(st.lists(st.integers(0, alphabet - 1), max_size=40))
    return Symbols(np.array(values, np.int32), alphabet, draw(st.booleans()))


codes = st.builds(
    Code,
    form=words,
    shape=shapes,
    streams=st.dictionaries(words, symbols(), max_size=3),
    tables=st.dictionaries(words, tables, max_size=3),
    options=st.dictionaries(words, st.integers(-(2**62), 2**62 - 1), max_size=3),
    dtype=words,
)


integers = st.integers(-(2**62), 2**62)
sizes = st.dictionaries(words, integers)


@st.composite
def any_contents(draw: st.DrawFn) -> Contents:
    tensors = draw(st.dictionaries(words, codes, max_size=4))
    aliases = draw(st.dictionaries(words, st.sampled_from(sorted(tensors)), max_size=2)) if tensors else {}
    return Contents(
        tensors=tensors,
        aliases={alias: name for alias, name in aliases.items() if alias not in tensors},
        model=draw(st.none() | objects),
        recipe=draw(objects),
        versions=draw(st.dictionaries(words, words, max_size=3)),
        data=draw(words),
        data_digest=draw(words | st.binary(max_size=16).map(bytes.hex)),
        seed=draw(st.integers(0, 2**63 - 1)),
        edits=draw(
            st.dictionaries(words, st.integers(0, 16) | sizes | st.builds(Change, words, sizes, sizes), max_size=2)
        ),
        graph=draw(objects),
    )


@settings(max_examples=100, deadline=None)
@given(contents=any_contents(), coder=st.sampled_from(["auto", "ans", "raw"]))
def test_any_contents_come_back(same: Same, contents: Contents, coder: str) -> None:
    data, ledger = artifact.to_bytes(contents, coder)
    back = artifact.read_bytes(data)
    same(back, contents)
    assert artifact.to_bytes(back, coder) == (data, ledger)
    assert ledger.header_bytes + sum(row.bytes for row in ledger.rows) == ledger.total == len(data)


def test_file_comes_back_and_ledger_sums_to_its_length(tmp_path: Path, lenet5: Contents, same: Same) -> None:
    path = tmp_path / "lenet5.terse"
    written = artifact.write(path, lenet5)
    same(artifact.read(path), lenet5)
    found = artifact.inspect(path)
    assert found == written
    assert found.header_bytes + sum(row.bytes for row in found.rows) == found.total == path.stat().st_size
    assert [row.name for row in found.rows] == list(lenet5.tensors)


def test_overhead_of_lenet5_stays_under_200_bytes(lenet5: Contents) -> None:
    data, ledger = artifact.to_bytes(lenet5)
    payload = sum(row.values + row.positions + row.tables for row in ledger.rows)
    assert ledger.overhead == len(data) - payload < 200


def test_bytes_are_what_the_tensors_need(lenet5: Contents) -> None:
    """The shared weights within 1 % of their entropy plus tables, the codebooks exactly, the biases below fp16."""
    _, ledger = artifact.to_bytes(lenet5, "ans")
    rows = {row.name: row for row in ledger.rows}
    index = lenet5.tensors["fc1.weight"].streams["index"].values
    share = np.bincount(index) / index.size
    entropy = -np.sum(share * np.log2(share)) * index.size / 8
    row = rows["fc1.weight"]
    assert row.entropy_bytes == pytest.approx(entropy)
    assert entropy < row.values + row.positions < 1.01 * entropy + 8
    assert row.tables >= lenet5.tensors["fc1.weight"].tables["codebook"].nbytes
    assert row.positions > row.values > 0
    assert rows["fc2.bias"].values == 20
    assert rows["fc1.bias"].bytes < 0.95 * 1000
    assert rows["fc1.bias"].entropy_bytes == 0


def test_equal_contents_give_equal_files_and_order_is_kept(tmp_path: Path, small: Contents) -> None:
    data, _ = artifact.to_bytes(small)
    artifact.write(tmp_path / "a.terse", small)
    assert (tmp_path / "a.terse").read_bytes() == data == artifact.to_bytes(small)[0]
    turned = replace(small, tensors=dict(reversed(small.tensors.items())))
    assert list(artifact.read_bytes(artifact.to_bytes(turned)[0]).tensors) == list(turned.tensors)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_large_tables_of_every_type_come_back(same: Same, dtype: str) -> None:
    rng = np.random.default_rng(derive(0, dtype))
    array = (rng.normal(0, 3, (40, 30)) > 2 if dtype == "bool" else np.abs(rng.normal(0, 3, (40, 30)))).astype(dtype)
    for table in (array, array.T, array[::2, 1::3], array.astype(array.dtype.newbyteorder(">"))):
        contents = Contents({"w": Code("dense", table.shape, {}, {"values": table})})
        data, ledger = artifact.to_bytes(contents)
        same(artifact.read_bytes(data), contents)
        assert ledger.rows[0].values + ledger.rows[0].tables < table.nbytes  # half of them are sign and exponent


def test_noise_is_stored_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 4096, np.uint8)
    _, ledger = artifact.to_bytes(Contents({"w": Code("dense", (4096,), {}, {"values": noise})}))
    assert ledger.rows[0].coders == {}
    assert ledger.rows[0].values == 4096


def test_floats_keep_every_bit() -> None:
    values = np.array([-0.0, np.inf, -np.inf, 5e-324, np.pi], np.float64)
    payload = np.array([0x7FF8000000000123, 0x7FF0000000000001], np.uint64).view(np.float64)  # two kinds of NaN
    table = np.concatenate([values, payload] * 20)
    back = artifact.read_bytes(artifact.to_bytes(Contents({"w": Code("dense", (140,), {}, {"values": table})}))[0])
    assert back.tensors["w"].tables["values"].tobytes() == table.tobytes()


def dense(**changes: Any) -> Contents:
    code = Code("dense", (2,), {}, {"values": np.zeros(2, np.float16)})
    return replace(Contents({"w": code}), **changes)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (dense(recipe={"lr": float("nan")}), "plain JSON"),
        (dense(recipe={"sizes": (1, 2)}), "plain JSON"),
        (dense(recipe={1: 2}), "plain JSON"),
        (dense(model={"what": object()}), "plain JSON"),
        (dense(data="\ud800"), "plain JSON"),
        (dense(data_digest="\ud800"), "Unicode"),
        (dense(seed=-1), "-1"),
        (dense(seed=2**63), "[0, 2^63)"),
        (dense(aliases={"other": "nothing"}), "'nothing', which is not there"),
        (dense(aliases={"w": "w"}), "both a tensor and another name"),
        (dense(tensors={"w": Code("dense", (-1,))}), "-1"),
        (dense(tensors={"w": Code("dense", (1,) * 16)}), "'w' has more than 15 axes"),
        (dense(tensors={"w": Code("x", (1,), options={str(n): n for n in range(33)})}), "more than 32 streams"),
        (dense(tensors={"w": Code("x", (1,), {}, {"t": np.array(["text"])})}), "'w' cannot be stored: table 't'"),
        (dense(tensors={"w": Code("x", (2**40,))}), "unfold"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(contents: Contents, words: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        artifact.to_bytes(contents)
    assert words in str(caught.value)
