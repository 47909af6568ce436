"""Writing leaves the old file or the new one, whatever happens; reading says what is wrong with a path."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tersenet import artifact
from tersenet.artifact import Contents, storage
from tersenet.core.errors import ArtifactError

OLD = b"the file that was there before"

Same = Callable[[Contents, Contents], None]


def fail(error: BaseException) -> Callable[..., None]:
    def raise_it(*args: object, **kwargs: object) -> None:
        raise error

    return raise_it


def write_error(path: Path, contents: Contents) -> str:
    with pytest.raises(ArtifactError) as caught:
        artifact.write(path, contents)
    return str(caught.value)


def read_error(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        artifact.read(path)
    with pytest.raises(ArtifactError) as again:
        artifact.inspect(path)
    assert str(caught.value) == str(again.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_written_over_an_old_file_with_nothing_left_beside(tmp_path: Path, small: Contents, same: Same) -> None:
    path = tmp_path / "model.terse"
    path.write_bytes(OLD)
    artifact.write(path, small)
    same(artifact.read(str(path)), small)
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_as_readable_as_others(tmp_path: Path, small: Contents) -> None:
    artifact.write(tmp_path / "model.terse", small)
    (tmp_path / "other").touch()
    assert (tmp_path / "model.terse").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path, small: Contents) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.terse"
    link.symlink_to(tmp_path / "there" / "model.terse")
    artifact.write(link, small)
    assert link.is_symlink()
    assert artifact.read(tmp_path / "there" / "model.terse").data == small.data


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left in the disk quota"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), "no permission"),
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only"),
    ],
)
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_disk_that_refuses(
    tmp_path: Path, small: Contents, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str, step: str
) -> None:
    path = tmp_path / "model.terse"
    path.write_bytes(OLD)
    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, fail(error))
        sentence = write_error(path, small)
    assert sentence == f"{path}: cannot be written: {words}"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == OLD


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_interrupted_from_the_keyboard(
    tmp_path: Path, small: Contents, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "model.terse"
    path.write_bytes(OLD)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os if step == "fsync" else Path, step, fail(KeyboardInterrupt()))
        artifact.write(path, small)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == OLD


def test_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, small: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "model.terse", []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    artifact.write(path, small)
    assert [there for _, there in seen] == [False, True]
    assert seen[0][0].parent == seen[1][0] == tmp_path


@pytest.mark.parametrize(("number", "accepted"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_folders_that_cannot_be_synced(
    tmp_path: Path, small: Contents, monkeypatch: pytest.MonkeyPatch, number: int, accepted: bool
) -> None:
    path = tmp_path / "model.terse"
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: fail(OSError(number, "no"))() if path.exists() else sync(fd))
    if accepted:
        artifact.write(path, small)
    else:
        assert write_error(path, small).endswith("cannot be written: no")
    assert artifact.read(path).data == small.data


def test_full_disk(tmp_path: Path) -> None:
    """A file system of 64 KiB for real, where the machine lets a process mount one for itself."""
    script = """
        import os, sys
        from pathlib import Path
        from tersenet.core.disk import replace_file
        from tersenet.core.errors import ArtifactError
        path = Path(sys.argv[1]) / "model.terse"
        replace_file(path, b"old")
        try:
            replace_file(path, bytes(2**17))
        except ArtifactError as error:
            print(error)
        print(os.listdir(path.parent), path.read_bytes())
    """
    command = f'mount -t tmpfs -o size=64k none {tmp_path} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, sys.executable, textwrap.dedent(script)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()[-80:]}")
    first, second = done.stdout.splitlines()
    assert first == f"{tmp_path}/model.terse: cannot be written: no space left on the disk"
    assert second == "['model.terse'] b'old'"


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from tersenet.core.disk import replace_file
    path, moment = Path(sys.argv[1]), int(sys.argv[2])
    calls = 0
    def die(sync):
        def call(*arguments):
            global calls
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return sync(*arguments)
        return call
    os.fsync, Path.replace = die(os.fsync), die(Path.replace)
    new = path.with_suffix(".new").read_bytes()
    while True:
        replace_file(path, new)
        if moment < 3:
            sys.exit(f"not killed at step {moment}")
"""


@pytest.mark.parametrize(("moment", "new"), [(0, False), (1, False), (2, True)])
def test_killed_before_sync_before_rename_after_rename(
    tmp_path: Path, small: Contents, same: Same, moment: int, new: bool
) -> None:
    path, expected = two_versions(tmp_path, small)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path), str(moment)], check=False)
    assert done.returncode == -signal.SIGKILL
    same(artifact.read(path), expected[new])


def test_killed_at_any_time(tmp_path: Path, small: Contents) -> None:
    path, expected = two_versions(tmp_path, small)
    running = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), str(path), "1000000000"])
    while artifact.read(path).seed == expected[0].seed:  # also read while it is written over and over
        assert running.poll() is None
    time.sleep(0.05)
    running.kill()
    running.wait()
    assert artifact.read(path).seed == expected[1].seed


def two_versions(folder: Path, contents: Contents) -> tuple[Path, tuple[Contents, Contents]]:
    """`model.terse` in its old version, `model.new` in its new one."""
    changed = replace(contents, seed=contents.seed + 1)
    artifact.write(folder / "model.terse", contents)
    artifact.write(folder / "model.new", changed)
    return folder / "model.terse", (contents, changed)


def test_places_that_cannot_be_written(tmp_path: Path, small: Contents) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for path, words in (
        (tmp_path, "it is a folder"),
        (tmp_path / "missing" / "model.terse", "no such file or folder"),
        (tmp_path / "file" / "model.terse", "Not a directory"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "nul\0", "embedded null byte"),
    ):
        assert write_error(path, small) == f"{path}: cannot be written: {words}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("a recipe, perhaps")
    (tmp_path / "empty").touch()
    assert read_error(tmp_path / "missing.terse") == "cannot be read: no such file or folder"
    assert read_error(tmp_path) == "cannot be read: it is a folder"
    assert read_error(tmp_path / "pipe") == "cannot be read: it is not a regular file"
    assert read_error(tmp_path / "text") == "not a .terse file; it begins with the bytes 61 20 72 65"
    assert read_error(tmp_path / "empty") == "not a .terse file; it is empty"
    assert read_error(tmp_path / "text" / "model.terse") == "cannot be read: Not a directory"
    assert read_error(Path("/dev/zero")) == "cannot be read: it is not a regular file"
    assert read_error(tmp_path / "nul\0") == "cannot be read: embedded null byte"


def test_a_file_of_terabytes_is_not_even_opened(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**42)  # a hole: it takes no space
    assert read_error(tmp_path / "huge") == f"is {2**42} bytes long, more than the {2**34} allowed by max_bytes"


def test_no_permission_to_read(tmp_path: Path, small: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.terse"
    artifact.write(path, small)
    path.chmod(0)
    if os.geteuid() == 0:  # whom no mode stops
        monkeypatch.setattr(Path, "open", fail(PermissionError(errno.EACCES, "Permission denied")))
    assert read_error(path) == "cannot be read: no permission"


def test_no_memory(tmp_path: Path, small: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.terse"
    artifact.write(path, small)
    monkeypatch.setattr(storage, "read_bytes", fail(MemoryError()))
    with pytest.raises(ArtifactError, match="needs more memory than there is"):
        artifact.read(path)


def test_damaged_file_is_named(tmp_path: Path, small: Contents) -> None:
    path = tmp_path / "model.terse"
    path.write_bytes(artifact.to_bytes(small)[0][:-1])
    assert read_error(path).startswith("truncated: ")
