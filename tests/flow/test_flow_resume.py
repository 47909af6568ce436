"""`kill -9` and Ctrl-C at any moment: with --resume the file is byte for byte that of an unbroken run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """
model: {name: lenet_300_100, kwargs: {inputs: 64, hidden: [40, 20], dropout: 0.2}}
data: {path: digits, augment: {shift: 1}}
train: {epochs: 25, batch_size: 16}
stages:
  - method: prune.magnitude
    sparsity: 0.8
    schedule: gradual
    finetune: {epochs: 25, batch_size: 16}
  - method: quantize.share
    bits: 3
    finetune: {epochs: 25, batch_size: 16}
"""


ENDLESS = ("--set", "stages.1.finetune.epochs=100000")
"""For a run that must not end by itself before it is stopped, however busy the machine is."""


def start(folder: Path, out: str, *more: str) -> subprocess.Popen[str]:
    code = (
        "import signal, sys, tersenet.flow.context as c; from tersenet.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests may run where a shell has it ignored
        "c.SAVE_EVERY = 0.0; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "compress", "r.yaml", "--out", out, *more]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def saves(folder: Path) -> tuple[int, int]:
    """How many trainings have a checkpoint, and when the last was saved."""
    files = list(folder.glob("checkpoints/*.ckpt"))
    return len(files), max((file.stat().st_mtime_ns for file in files), default=0)


def wait_for(process: subprocess.Popen[str], folder: Path, trainings: int, epochs: int) -> None:
    """Until training number `trainings` has saved `epochs` times, or the run has ended."""
    seen, deadline = 0, time.monotonic() + 120
    count, last = saves(folder)
    while process.poll() is None and time.monotonic() < deadline:
        now_count, now = saves(folder)
        if now != last:
            seen, last = (seen + 1 if now_count == count else 1), now
            count = now_count
        if count >= trainings and seen >= epochs:
            return
        time.sleep(0.002)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    (folder / "r.yaml").write_text(RECIPE)
    process = start(folder, "whole")
    _, err = process.communicate()
    assert process.returncode == 0, err
    return folder


def test_killed_in_each_phase_and_resumed_gives_the_same_bytes(unbroken: Path) -> None:
    killed = 0
    for trainings, epochs in ((1, 4), (2, 6), (3, 3)):
        process = start(unbroken, "killed", *(["--resume"] if killed else []))
        wait_for(process, unbroken / "killed", trainings, epochs)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert not (unbroken / "killed/model.terse").exists() or process.returncode == 0
    assert killed >= 2, "the kills must hit a run that is under way"
    process = start(unbroken, "killed", "--resume")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert (unbroken / "killed/model.terse").read_bytes() == (unbroken / "whole/model.terse").read_bytes()


def test_ctrl_c_says_how_to_go_on(unbroken: Path) -> None:
    process = start(unbroken, "interrupted", *ENDLESS)
    wait_for(process, unbroken / "interrupted", 1, 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_second_run_in_the_same_folder_is_refused(unbroken: Path) -> None:
    first = start(unbroken, "busy", *ENDLESS)
    wait_for(first, unbroken / "busy", 1, 1)
    second = start(unbroken, "busy")
    _, err = second.communicate()
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another run" in err
