"""Reading record.json: the same record back, or one sentence."""

from __future__ import annotations

import json
import os

import pytest

from tersenet.core.errors import TersenetError
from tersenet.report import load_record


def test_round_trip_by_folder_and_by_file(record, tmp_path):
    (tmp_path / "record.json").write_text(record.model_dump_json())
    assert load_record(tmp_path) == record
    assert load_record(str(tmp_path / "record.json")) == record


def sentence(path) -> str:
    with pytest.raises(TersenetError) as caught:
        load_record(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_missing(tmp_path):
    assert "no such run folder" in sentence(tmp_path / "nowhere")
    assert "holds no record.json" in sentence(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: is not a record: not valid JSON"),
        (b'{\n"recipe":', "line 2: is not a record: not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "is not a record"),
        (b"null", "is not a record"),
        (b"{}", "recipe: is missing"),
        (b"[" * 100_000, "is not a record"),
        (b"1" * 10_000, "is not a record"),
    ],
)
def test_broken(tmp_path, content, said):
    (tmp_path / "record.json").write_bytes(content)
    assert said in sentence(tmp_path)


def test_wrong_or_unknown_field(record, tmp_path):
    plain = record.model_dump(mode="json")
    plain["tensors"][0]["bytes_values"] = "many"
    (tmp_path / "record.json").write_text(json.dumps(plain))
    assert "tensors[0].bytes_values" in sentence(tmp_path)
    plain = {**record.model_dump(mode="json"), "from_the_future": 1}
    (tmp_path / "record.json").write_text(json.dumps(plain))
    assert "from_the_future" in sentence(tmp_path)
    plain = record.model_dump(mode="json")
    plain["figures"]["ratio"] = float("nan")
    (tmp_path / "record.json").write_text(json.dumps(plain))
    assert "figures.ratio" in sentence(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_no_permission(record, tmp_path):
    file = tmp_path / "record.json"
    file.write_text(record.model_dump_json())
    file.chmod(0)
    assert "cannot be read" in sentence(tmp_path)


def test_a_folder_called_record_json(tmp_path):
    (tmp_path / "record.json").mkdir()
    assert "cannot be read" in sentence(tmp_path)
