"""`tersenet pack` and `unpack`: nothing is lost unless asked for, errors are as stated, mistakes one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tersenet import artifact
from tersenet.cli import main
from tersenet.flow import packing
from tersenet.flow.packing import pack, unpack
from tersenet.flow.tensor_coding import Precision
from tersenet.forms import decode
from tersenet.quantize.ranges import grid

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DTYPES = [*FLOATS, torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn]
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
shapes = st.one_of(st.just(()), st.lists(st.integers(0, 9), max_size=3).map(tuple), st.just((150, 300)))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.zeros(0)


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int, wild: bool) -> torch.Tensor:
    """wild: any bits, so NaNs with payloads, infinities, denormals and −0; else Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.3
    if not wild:
        return (torch.randn(shape, generator=generator) * (0.02 if dtype.is_floating_point else 20)).to(dtype)
    whole = torch.iinfo(INTEGERS[dtype.itemsize])
    found = torch.randint(whole.min, whole.max, shape, generator=generator, dtype=INTEGERS[dtype.itemsize])
    return found.reshape(-1).view(dtype).reshape(shape)


def round_trip(tensors: dict[str, torch.Tensor], folder: Path, precision: Precision) -> dict[str, torch.Tensor]:
    save_file(tensors, folder / "in.safetensors", metadata={"format": "pt"})
    pack(folder / "in.safetensors", folder / "a.terse", precision, threads=1)
    unpack(folder / "a.terse", folder / "out.safetensors", threads=1)
    return load_file(folder / "out.safetensors")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(shapes, st.sampled_from(DTYPES), st.integers(0, 99), st.booleans()), min_size=1, max_size=4))
def test_lossless_keeps_every_bit(tmp_path: Path, drawings: list) -> None:
    tensors = {f"t{number}.weight": drawn(*each) for number, each in enumerate(drawings)}
    back = round_trip(tensors, tmp_path, Precision())
    contents = artifact.read(tmp_path / "a.terse")
    assert set(back) == set(tensors) == set(contents.tensors)
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(bits(back[name]), bits(tensor))
        assert torch.equal(bits(decode(contents.tensors[name])), bits(tensor))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [2, 4, 8])
def test_bits_are_as_near_as_those_of_the_stage(tmp_path: Path, dtype: torch.dtype, width: int) -> None:
    weight = drawn((60, 7, 300), dtype, 1, False) * torch.linspace(0.1, 3, 60).to(dtype)[:, None, None]
    bias = drawn((60,), dtype, 2, False)
    back = round_trip({"w": weight, "b": bias}, tmp_path, Precision(bits=width))
    rows = weight.reshape(60, -1).float()
    step, low = grid(rows, width, "symmetric", "mse")
    ideal = (rows / step[:, None]).round().clamp(low[:, None], low[:, None] + 2**width - 1) * step[:, None]
    expected = (ideal.to(dtype).double() - weight.reshape(60, -1).double()).norm()
    assert float((back["w"].double() - weight.double()).norm()) <= 1.001 * float(expected)
    assert all(len(row.unique()) <= 2**width for row in back["w"])
    assert torch.equal(back["b"], bias)
    stored = artifact.read(tmp_path / "a.terse").tensors["w"]
    assert torch.equal(decode(stored), back["w"])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rmse", [0.3, 0.02, 0.004])
def test_rmse_is_met_and_nearly_reached(tmp_path: Path, dtype: torch.dtype, rmse: float) -> None:
    weight = drawn((200, 500), dtype, 1, False)
    back = round_trip({"w": weight}, tmp_path, Precision(rmse=rmse))["w"]
    error = float((back.double() - weight.double()).norm() / weight.double().norm())
    assert (0.97 if dtype == torch.bfloat16 else 0.99) * rmse < error <= rmse


def test_an_error_below_the_types_own_keeps_the_tensor(tmp_path: Path) -> None:
    weight = drawn((200, 500), torch.bfloat16, 1, False)
    assert torch.equal(round_trip({"w": weight}, tmp_path, Precision(rmse=1e-5))["w"], weight)


def test_as_small_as_a_split_of_exponents_allows(tmp_path: Path) -> None:
    """A Gaussian's exponent has 2.54 bits of entropy, so 10.54 of 16 and 26.54 of 32 bits are needed."""
    for dtype, expected in ((torch.bfloat16, 10.54 / 16), (torch.float32, 26.54 / 32)):
        save_file({"w": drawn((1000, 1000), dtype, 0, False)}, tmp_path / "in.safetensors")
        assert 1 - pack(tmp_path / "in.safetensors", tmp_path / "a.terse").saved == pytest.approx(expected, rel=0.004)


def test_shards_and_pickles_give_the_tensors_of_one_file(tmp_path: Path) -> None:
    tensors = {f"{n}.w": drawn((30, 40), torch.float32, n, False) for n in range(3)}
    shards = tmp_path / "shards"
    shards.mkdir()
    save_file({"0.w": tensors["0.w"]}, shards / "model-1.safetensors")
    save_file({name: tensors[name] for name in ("1.w", "2.w")}, shards / "model-2.safetensors")
    weight_map = {"0.w": "model-1.safetensors", "1.w": "model-2.safetensors", "2.w": "model-2.safetensors"}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    torch.save({"state_dict": {**tensors, "tied": tensors["0.w"]}}, tmp_path / "model.pt")
    for source in (shards, shards / "model.safetensors.index.json", tmp_path / "model.pt"):
        pack(source, tmp_path / "a.terse")
        unpack(tmp_path / "a.terse", tmp_path / "out.safetensors")
        back = load_file(tmp_path / "out.safetensors")
        assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert torch.equal(back["tied"], tensors["0.w"])
    assert artifact.read(tmp_path / "a.terse").aliases == {"tied": "0.w"}


def test_an_interrupted_pack_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch, capsys) -> None:
    tensors = {f"{n}.w": drawn((300, 400), torch.float32, n, False) for n in range(4)}
    source, target = tmp_path / "in.safetensors", tmp_path / "a.terse"
    save_file(tensors, source)
    pack(source, tmp_path / "whole.terse")
    calls: list[str] = []
    honest = packing.encoded

    def breaking(name: str, *rest: object) -> object:
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "encoded", breaking)
    assert main(["pack", str(source), str(target)]) == 130
    assert "--resume" in capsys.readouterr().err and not target.exists()
    assert main(["pack", str(source), str(target), "--resume", "--bits", "4"]) == 2
    assert "other options" in capsys.readouterr().err
    assert main(["pack", str(source), str(target), "--resume"]) == 0
    assert len(calls) == 3 + 2
    assert target.read_bytes() == (tmp_path / "whole.terse").read_bytes()


def test_what_the_commands_print(tmp_path: Path, capsys) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "a.terse"
    save_file({"w": drawn((300, 400), torch.float32, 0, False), "b": torch.zeros(3)}, source)
    assert main(["pack", str(source), str(target), "--bits", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tensors"], found["quantized"], found["bytes"]) == (2, 1, target.stat().st_size)
    assert main(["unpack", str(target), str(tmp_path / "b.safetensors")]) == 0
    assert "2 tensors" in capsys.readouterr().out
    assert main(["inspect", str(target)]) == 0


def test_mistakes_are_one_sentence(tmp_path: Path, capsys) -> None:
    good, out = tmp_path / "in.safetensors", tmp_path / "a.terse"
    save_file({"w.weight": torch.full((3, 3), float("nan"))}, good)
    (tmp_path / "bad.safetensors").write_bytes(b"no such thing")
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-3])
    (tmp_path / "mine.txt").write_text("my own text")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (["pack", "missing.safetensors", str(out)], "no such file"),
        (["pack", str(tmp_path / "bad.safetensors"), str(out)], "no readable safetensors"),
        (["pack", str(tmp_path / "cut.safetensors"), str(out)], "no readable safetensors"),
        (["pack", str(tmp_path / "mine.txt"), str(out)], "neither"),
        (["pack", str(tmp_path / "empty"), str(out)], "without a .safetensors"),
        (["pack", str(good), str(out), "--bits", "4"], "'w.weight' holds NaN"),
        (["pack", str(good), str(out), "--rmse", "0.1"], "'w.weight' holds NaN"),
        (["pack", str(good), str(out), "--bits", "4", "--rmse", "0.1"], "only one"),
        (["pack", str(good), str(out), "--bits", "4", "--lossless"], "only one"),
        (["pack", str(good), str(out), "--bits", "9"], "from 2 to 8"),
        (["pack", str(good), str(out), "--rmse", "1.5"], "between 0 and 1"),
        (["pack", str(good), str(tmp_path / "mine.txt")], "not a .terse file"),
        (["pack", str(good), str(tmp_path / "no/where.terse")], "no such file or folder"),
        (["unpack", str(good), str(out)], "not a .terse file"),
    ):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
    assert not out.exists() and (tmp_path / "mine.txt").read_text() == "my own text"
    assert not list(tmp_path.glob(".*"))
    assert main(["pack", str(good), str(tmp_path / "mine.txt"), "--force"]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path: Path, capsys) -> None:
    source = tmp_path / "in.safetensors"
    save_file({"w": drawn((300, 400), torch.float32, 0, False)}, source)
    (tmp_path / ".a.terse.spool").symlink_to("/dev/full")
    assert main(["pack", str(source), str(tmp_path / "a.terse")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


MEMORY = """
import resource, sys, torch
from pathlib import Path
from tersenet.flow.packing import pack, unpack
from tersenet.flow.tensor_coding import Precision
def own():  # without what is mapped from files
    return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if 'RssAnon' in l).split()[1]) * 1024
import threading, time
source, target, back, small = sys.argv[1:]
def both(source):
    for precision in (Precision(), Precision(bits=4)):
        pack(source, target, precision, threads=1)
        unpack(target, back, threads=1)
both(small)  # compiles
ground, most, running = own(), 0, True
def watch():
    global most
    while running:
        most = max(most, own()); time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
both(source)
running = False; thread.join()
print(most - ground)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    fast = Path("/dev/shm")  # in memory, where there is such a folder; not counted as the process's own
    with tempfile.TemporaryDirectory(dir=fast if fast.is_dir() else tmp_path) as folder:
        peak, largest = measured_peak(Path(folder))
    assert peak < 5 * largest + 3e7


def measured_peak(folder: Path) -> tuple[int, int]:
    """Of packing and unpacking 100 MB, lossless and rounded, and the size of the largest tensor; bytes."""
    weight = drawn((1000, 2048), torch.float32, 0, False)
    tensors = {f"{n}.w": weight.clone() for n in range(12)}  # 100 MB
    save_file(tensors, folder / "in.safetensors")
    save_file({"w": drawn((200, 2048), torch.float32, 0, False)}, folder / "warm.safetensors")
    arguments = [str(folder / name) for name in ("in.safetensors", "a.terse", "b.safetensors")]
    command = [sys.executable, "-c", MEMORY, *arguments, str(folder / "warm.safetensors")]
    peak = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return peak, weight.numel() * weight.itemsize
