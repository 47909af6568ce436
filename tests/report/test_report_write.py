"""Writing the page: whole or not at all, and one sentence where it cannot be."""

from __future__ import annotations

import pytest

from tersenet.core.errors import TersenetError
from tersenet.report import render, write_page


def test_no_run(tmp_path):
    with pytest.raises(TersenetError, match="at least one run"):
        render([])


def test_write_page_makes_the_folder_and_leaves_nothing_else(record, tmp_path):
    path = write_page([record], tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8") == render([record])
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_write_page_keeps_the_old_page_when_it_fails(record, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TersenetError, match=r"report\.html: cannot be written: no space left on the disk"):
        write_page([record], path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_write_page_replaces_in_one_step(record, tmp_path, monkeypatch):
    """Up to the very last step, which is a rename, the old page is whole."""
    path = tmp_path / "report.html"
    path.write_text("old")
    seen = []

    def stopped(self, target) -> None:
        seen.append((self.read_text(encoding="utf-8"), target.read_text()))
        raise OSError(5, "stopped")

    monkeypatch.setattr("pathlib.Path.replace", stopped)
    with pytest.raises(TersenetError, match="stopped"):
        write_page([record], path)
    assert seen == [(render([record]), "old")]


def test_write_page_onto_a_folder_is_one_sentence(record, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(TersenetError, match="cannot be written"):
        write_page([record], tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
