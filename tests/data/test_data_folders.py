"""Sets on disk: as `datasets` and Pillow read them, cached, streamed, and refused where they are damaged."""

import io
import itertools
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from tersenet.core.errors import DataError
from tersenet.core.recipe import Augment, DataSpec
from tersenet.data import cache, load_data


@pytest.fixture
def parquet(tmp_path, png, grey):
    """A folder as `datasets` lays it out, with class labels declared; returns the folder and what is in it."""

    def make(image="image", label="label", test=9, declared=True, change=lambda rows: rows):
        content = {}
        kind = datasets.ClassLabel(names=["a", "b", "c"]) if declared else datasets.Value("int64")
        for split, count in (("train", 20), ("test", test)):
            pixels, labels = content[split] = grey(count, seed=count)
            rows = {image: [{"bytes": png(one), "path": None} for one in pixels], label: labels}
            features = datasets.Features({image: datasets.Image(), label: kind})
            (tmp_path / "set").mkdir(exist_ok=True)
            table = datasets.Dataset.from_dict(change(rows), features=features)
            table.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
        return tmp_path / "set", content

    return make


@pytest.fixture
def image_folder(tmp_path, png, grey):
    """train/CLASS/NN.png and test/CLASS/NN.png."""
    content = {}
    for split, count in (("train", 12), ("test", 6)):
        pixels, labels = content[split] = grey(count, seed=count)
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = tmp_path / "pictures" / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:02}.png").write_bytes(png(image))
    return tmp_path / "pictures", content


def raw(source):
    """What the source holds before normalisation: bytes of every image, and labels."""
    batches = list(source.batches(4))
    return (
        (torch.cat([batch.inputs[0] for batch in batches]) * 255).round().byte().numpy()[:, 0],
        torch.cat([batch.target for batch in batches]).tolist(),
    )


def refused(spec) -> str:
    with pytest.raises(DataError) as caught:
        load_data(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_datasets_folder_is_what_was_put_in(parquet):
    folder, content = parquet()
    splits = load_data(DataSpec(path=str(folder), normalize=False, validation=5))
    assert (splits.classes, splits.name) == (3, str(folder))
    images, labels = raw(splits.train)
    assert np.array_equal(images, content["train"][0][:15]) and labels == content["train"][1][:15]
    images, labels = raw(splits.validation)
    assert np.array_equal(images, content["train"][0][15:]) and labels == content["train"][1][15:]
    images, labels = raw(splits.test)
    assert np.array_equal(images, content["test"][0]) and labels == content["test"][1]


def test_columns_may_be_called_anything_or_be_chosen(parquet):
    folder, content = parquet(image="img", label="fine", declared=True)
    assert np.array_equal(raw(load_data(DataSpec(path=str(folder), normalize=False)).test)[0], content["test"][0])
    folder, content = parquet(image="img", label="fine", declared=False)
    assert "has no label column; say which it is with data.label, of: " in refused(DataSpec(path=str(folder)))
    assert raw(load_data(DataSpec(path=str(folder), label="fine", normalize=False)).test)[1] == content["test"][1]
    assert "no column 'fin'; did you mean 'fine'" in refused(DataSpec(path=str(folder), label="fin"))


def test_a_folder_in_another_layout_that_datasets_reads(tmp_path, parquet):
    folder, content = parquet()
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "hf"))
    loaded.save_to_disk(tmp_path / "saved")
    splits = load_data(DataSpec(path=str(tmp_path / "saved"), normalize=False, validation=5))
    assert np.array_equal(raw(splits.train)[0], content["train"][0][:15])
    rows = [json.dumps({"x": [i, i + 1, 0.5], "label": i % 2}) for i in range(10)]
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_text("\n".join(rows))
    splits = load_data(DataSpec(path=str(tmp_path / "lines"), input="x", normalize=False, validation=2))
    assert next(splits.train.batches(8)).inputs[0].tolist() == [[i, i + 1, 0.5] for i in range(8)]
    assert splits.classes == 2 and splits.test is None


def test_colour_images_are_three_channels_and_grey_ones_among_them_too(tmp_path, png):
    colour = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for name, pixels in (("0", colour[:, :, 0]), ("1", colour)):
        folder = tmp_path / "train" / "only"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(png(pixels))
    images = next(load_data(DataSpec(path=str(tmp_path), normalize=False, validation=1)).train.batches(1)).inputs[0]
    assert images.shape == (1, 3, 4, 4)
    validation = next(load_data(DataSpec(path=str(tmp_path), normalize=False, validation=1)).validation.batches(1))
    assert torch.equal((validation.inputs[0][0] * 255).round().byte(), torch.from_numpy(colour).permute(2, 0, 1))


def test_an_image_folder_numbers_classes_by_name(image_folder):
    folder, content = image_folder
    splits = load_data(DataSpec(path=str(folder), normalize=False, validation=1))
    assert splits.classes == 3
    images, labels = raw(splits.test)
    assert labels == [0, 0, 1, 1, 2, 2]
    order = np.argsort(content["test"][1], kind="stable")
    assert np.array_equal(images, content["test"][0][order])


def test_an_explicit_validation_folder_is_used(image_folder):
    folder, _ = image_folder
    (folder / "test").rename(folder / "val")
    splits = load_data(DataSpec(path=str(folder)))
    assert (len(splits.train), len(splits.validation), splits.test) == (12, 6, None)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_are_those_in_memory(parquet, image_folder, workers):
    for folder in (parquet()[0], image_folder[0]):
        spec = DataSpec(path=str(folder), validation=4, augment=Augment(shift=1, flip=True))
        memory = load_data(spec)
        stream = load_data(spec.model_copy(update={"in_memory": False, "workers": workers}))
        assert stream.classes == memory.classes
        for name, seed in itertools.product(("train", "validation", "test"), (None, 3)):
            one, other = (list(getattr(splits, name).batches(5, seed=seed)) for splits in (memory, stream))
            for kept, read in zip(one, other, strict=True):
                assert torch.equal(kept.target, read.target)
                torch.testing.assert_close(kept.inputs[0], read.inputs[0])
        assert stream.digest == load_data(spec.model_copy(update={"in_memory": False})).digest


def test_the_second_load_decodes_nothing(parquet, own_cache, monkeypatch):
    spec = DataSpec(path=str(parquet()[0]))
    first = load_data(spec)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
    second = load_data(spec)
    assert first.digest == second.digest and second.classes == 3
    for one, other in zip(first.test.batches(4), second.test.batches(4), strict=True):
        assert torch.equal(one.inputs[0], other.inputs[0]) and torch.equal(one.target, other.target)
    assert [path.suffix for path in (own_cache / "tersenet").iterdir()] == [".safetensors"]


def test_a_changed_folder_is_read_again(image_folder, png):
    folder, _ = image_folder
    before = load_data(DataSpec(path=str(folder))).digest
    path = next((folder / "train").rglob("*.png"))
    path.write_bytes(png(np.zeros((6, 6), np.uint8)))
    assert load_data(DataSpec(path=str(folder))).digest != before


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "foreign"])
def test_a_damaged_cache_is_passed_over(parquet, own_cache, damage):
    spec = DataSpec(path=str(parquet()[0]))
    digest = load_data(spec).digest
    (path,) = (own_cache / "tersenet").iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    harmed = {"flip": bytes(data), "truncate": path.read_bytes()[:-40], "empty": b"", "foreign": b"x" * 500}[damage]
    path.write_bytes(harmed)
    assert load_data(spec).digest == digest
    assert path.read_bytes() != harmed  # and it is mended


def test_a_cache_that_cannot_be_written_is_no_error(parquet, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load_data(DataSpec(path=str(parquet()[0]), validation=2)).train) == 18


def test_a_kill_while_writing_leaves_no_half_cache(tmp_path, monkeypatch):
    import safetensors.torch

    def killed(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        cache._write(tmp_path / "x.safetensors", {}, None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there(tmp_path):
    assert refused(DataSpec(path=str(tmp_path / "none"))).endswith("there is no such folder")
    assert refused(DataSpec(path="./none")).endswith("there is no such folder")
    assert refused(DataSpec(path=str(tmp_path))).endswith("the folder is empty")
    (tmp_path / "x.parquet").write_bytes(b"")
    assert refused(DataSpec(path=str(tmp_path / "x.parquet"))).endswith("is a file; give the folder it lies in")
    assert "cannot read it" in refused(DataSpec(path=str(tmp_path)))


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch):
    import socket

    def unreachable(*_, **__):
        raise socket.gaierror

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    said = refused(DataSpec(path="someone/surely-not-there"))
    assert "hub" in said and "give the path of a folder, or 'digits'" in said


def test_damaged_tables(parquet, png):
    big = png(np.zeros((7, 6), np.uint8))

    def with_image(data):
        def change(rows):
            rows["image"][3] = data
            return rows

        return DataSpec(path=str(parquet(change=change)[0]))

    assert "image 3 has 7×6 pixels and the first one 6×6" in refused(with_image({"bytes": big, "path": None}))
    assert "image 3 is no image that can be decoded" in refused(with_image({"bytes": b"no image", "path": None}))
    assert "image 3 is missing" in refused(with_image(None))
    deep = io.BytesIO()
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(deep, "PNG")
    assert "more than 8 bits" in refused(with_image({"bytes": deep.getvalue(), "path": None}))

    def with_label(label):
        def change(rows):
            rows["label"][2] = label
            return rows

        return DataSpec(path=str(parquet(change=change, declared=False)[0]))

    assert "label -1 of example 2 is out of range" in refused(with_label(-1))
    assert "rows without a label: 1" in refused(with_label(None))
    assert "is empty" in refused(DataSpec(path=str(parquet(test=0)[0])))


def test_damaged_image_folders(image_folder, png):
    folder, _ = image_folder
    (folder / "train" / ".hidden").write_text("passed over")
    stray = folder / "train" / "class1" / "notes.txt"
    stray.write_text("not an image")
    assert f"{stray} is no image that can be decoded" in refused(DataSpec(path=str(folder)))
    stray.unlink()
    (folder / "test" / "class7").mkdir()
    assert "train has no class 'class7'; did you mean 'class" in refused(DataSpec(path=str(folder)))
    (folder / "test" / "class7").rmdir()
    (folder / "train" / "class8").mkdir()
    assert f"{folder / 'train' / 'class8'}: the class has no images" in refused(DataSpec(path=str(folder)))
    (folder / "train" / "class8").rmdir()
    colour = next((folder / "test").rglob("*.png"))
    colour.write_bytes(png(np.zeros((6, 6, 3), np.uint8)))
    assert f"{colour} has colours" in refused(DataSpec(path=str(folder)))


def test_a_damaged_image_is_named_from_a_worker_too(image_folder):
    folder, _ = image_folder
    bad = sorted((folder / "test").rglob("*.png"))[4]
    bad.write_bytes(b"no image")
    splits = load_data(DataSpec(path=str(folder), in_memory=False, workers=1))
    with pytest.raises(DataError) as caught:
        list(splits.test.batches(2))
    assert str(caught.value).startswith(f"{bad} is no image") and "\n" not in str(caught.value)
