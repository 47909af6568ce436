"""The streaming writer and reader: the same bytes as in memory, and what an interrupted writer leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet import artifact
from tersenet.artifact import Contents
from tersenet.artifact.stream_reader import opened
from tersenet.artifact.stream_tables import quick_stream, quick_table
from tersenet.artifact.stream_writer import StreamWriter
from tersenet.artifact.tables import decode_table
from tersenet.artifact.tensor import decode_entry, encode_code
from tersenet.coding.histogram import entropy_bits
from tersenet.coding.lanes import CHUNK, decode_bytes, encode_bytes
from tersenet.core.errors import ArtifactError

Same = Callable[[Contents, Contents], None]


def streamed(path: Path, contents: Contents, upto: int | None = None, resume: bool = False) -> StreamWriter:
    """Writes all tensors that are not there yet, and the file; or, with `upto`, stops before the one of this number."""
    writer = StreamWriter(path, {"a": [1, "x"]}, resume)
    for name in list(contents.tensors)[len(writer.done) : upto]:
        writer.add(encode_code(name, contents.tensors[name], "auto"))
    if upto is None:
        writer.finish(contents)
    return writer


def test_bytes_and_ledger_are_those_of_the_writer_in_memory(tmp_path: Path, small: Contents, lenet5: Contents) -> None:
    for contents in (small, lenet5):
        data, ledger = artifact.to_bytes(contents)
        writer = StreamWriter(tmp_path / "a.terse", {})
        for name, code in contents.tensors.items():
            writer.add(encode_code(name, code, "auto"))
        assert writer.finish(contents) == ledger
        assert (tmp_path / "a.terse").read_bytes() == data
        assert [file.name for file in tmp_path.iterdir()] == ["a.terse"]


def test_reader_gives_what_read_gives(tmp_path: Path, small: Contents, same: Same) -> None:
    artifact.write(tmp_path / "a.terse", small)
    with opened(tmp_path / "a.terse") as document:
        tensors = {entry.name: decode_entry(entry) for entry in document.entries}
        same(replace(artifact.read(tmp_path / "a.terse"), tensors=tensors), small)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "folder", "missing"])
def test_reader_refuses_damage_in_one_sentence(tmp_path: Path, small: Contents, damage: str) -> None:
    path = tmp_path / "a.terse"
    artifact.write(path, small)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-20] ^= 1
    path.write_bytes(b"" if damage == "empty" else data[:-1] if damage == "cut" else bytes(data))
    path = {"folder": tmp_path, "missing": tmp_path / "b"}.get(damage, path)
    with pytest.raises(ArtifactError, match=str(path)), opened(path):
        pass


@pytest.mark.parametrize("torn", ["nothing", "journal", "spool", "both"])
def test_a_killed_writer_goes_on(tmp_path: Path, small: Contents, torn: str) -> None:
    path = tmp_path / "a.terse"
    writer = streamed(path, small, upto=3)
    writer._close()  # a kill: nothing is tidied up
    spool, journal = tmp_path / ".a.terse.spool", tmp_path / ".a.terse.journal"
    if torn in ("journal", "both"):  # the last line was being written
        journal.write_bytes(journal.read_bytes()[:-7])
    if torn in ("spool", "both"):  # the disk has lost the last bytes
        spool.write_bytes(spool.read_bytes()[:-1])
    again = StreamWriter(path, {"a": [1, "x"]}, resume=True)
    assert again.done == list(small.tensors)[: 3 if torn == "nothing" else 2]
    again._close()
    streamed(path, small, resume=True)
    assert path.read_bytes() == artifact.to_bytes(small)[0]


def test_other_input_is_not_continued(tmp_path: Path, small: Contents) -> None:
    streamed(tmp_path / "a.terse", small, upto=2)._close()
    with pytest.raises(ArtifactError, match="another input"):
        StreamWriter(tmp_path / "a.terse", {"a": [2, "x"]}, resume=True)
    assert StreamWriter(tmp_path / "a.terse", {"a": [2, "x"]}).done == []


def test_an_interrupt_leaves_the_spool_and_an_error_takes_it_away(tmp_path: Path, small: Contents) -> None:
    for error, left in ((KeyboardInterrupt(), 2), (ArtifactError("x"), 0)):
        with pytest.raises(type(error)), StreamWriter(tmp_path / "a.terse", {}):
            raise error
        assert len(list(tmp_path.iterdir())) == left


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "int8", "uint16", "uint32", "int64", "float32"]),
    length=st.sampled_from([0, 1, 7, 8, 9, 1000, CHUNK - 1, CHUNK + 9]),
    spread=st.sampled_from([0, 3, 1 << 10, 1 << 30]),
    seed=st.integers(0, 99),
)
def test_quick_tables_come_back(dtype: str, length: int, spread: int, seed: int) -> None:
    values = (np.random.default_rng(seed).normal(0, 1, length) * spread).astype(np.int64).astype(dtype)
    table = quick_table("values", values)
    found = decode_table(table)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found.view(np.uint8), values.view(np.uint8))


def test_lanes_come_within_a_hundredth_of_the_entropy() -> None:
    values = np.clip(np.random.default_rng(0).normal(8, 2.5, 3 * CHUNK + 5), 0, 15).astype(np.uint8)
    payload, tables = encode_bytes(values)
    np.testing.assert_array_equal(decode_bytes(payload, len(values), 16), values)
    assert entropy_bits(np.bincount(values)) / 8 < len(payload) < 1.005 * entropy_bits(np.bincount(values)) / 8
    assert tables < 300


def test_a_constant_is_nearly_free_but_within_what_a_file_may_unfold_to(tmp_path: Path) -> None:
    from tersenet.artifact.entry import BYTES_PER_BYTE, Entry, unfolded_bytes

    n = 20 * CHUNK
    for entry in (
        Entry("a", "dense", "float32", (n,), {}, (), (quick_table("values", np.zeros(n, np.float32)),)),
        Entry("a", "uniform", "int8", (n,), {}, (quick_stream("index", np.zeros(n, np.uint8), 16, True),), ()),
    ):
        size = sum(map(len, entry.payloads))
        assert size < n / 1000
        assert unfolded_bytes(entry) <= BYTES_PER_BYTE * size
