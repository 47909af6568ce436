"""The page: every section, figures that agree with the record, everything escaped, one file that needs no other."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from tersenet.report import render

SECTIONS = ("size", "bytes", "stages", "training", "layers", "weights", "coders", "macs", "costs", "notes", "recipe")


def plain(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def table(section, place: int = 0) -> list[list[str]]:
    """Rows of cells of a section's table."""
    rows = section.all("table")[place].all("tr")
    return [[plain(cell.text) for cell in row.children if not isinstance(cell, str)] for row in rows]


def section(page, name: str, run: int = 1):
    return next(node for node in page.all("section") if node.attributes.get("id") == f"run{run}-{name}")


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.fixture(scope="module")
def page(record, parse):
    return parse(render([record]))


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_has_a_heading_and_something_in_it(page, name):
    found = section(page, name)
    assert len(found.all("h2")) == 1
    assert len(plain(found.text)) > len(plain(found.all("h2")[0].text)) + 20


def test_headline_and_origin(page, record):
    text = plain(page.all("main")[0].text)
    for expected in (
        "21,517 bytes",
        "49.6×",
        "1.64 % → 1.58 %",
        "−0.06 points, on 10,000 test examples",
        "22,186of 266,610 parameters, 8.32 %",
        record.machine,
        record.data_digest,
        record.file_digest,
        "torch 2.13.0",
        "1,066,968 bytes",
        "985,412 bytes",
        "45.8×",
    ):
        assert expected in text, expected


def test_bytes_table_sums_to_the_file(page, record):
    _, *rows, last = table(section(page, "bytes"))
    assert len(rows) == len(record.tensors) + 1
    for row, tensor in zip(rows, record.tensors, strict=False):
        parts = (tensor.bytes_values, tensor.bytes_positions, tensor.bytes_tables, tensor.bytes_header)
        assert row[0] == tensor.name
        assert tuple(number(cell) for cell in row[1:5]) == parts
        assert number(row[5]) == sum(parts)
    for column in range(1, 6):
        assert sum(number(row[column]) for row in rows) == number(last[column])
    assert number(last[5]) == record.figures.file_bytes
    assert last[6] == "100.0 %"


def test_bytes_that_do_not_sum_are_said(record, parse):
    figures = record.figures.model_copy(update={"file_bytes": record.figures.file_bytes + 17})
    found = section(parse(render([record.model_copy(update={"figures": figures})])), "bytes")
    assert "the difference is 17 bytes" in plain(found.text)
    _, *rows, last = table(found)
    assert sum(number(row[5]) for row in rows) == number(last[5]) == figures.file_bytes


def test_layers_coders_and_stages(page, record):
    layers = table(section(page, "layers"))
    assert layers[1][:5] == ["fc1.weight", "300 × 784", "shared", "235,200", "18,816"]
    bits = 8 * record.tensors[0].bytes / 235_200
    assert layers[1][6:] == ["92.00 %", "33", f"{bits:.2f}"]
    coders = table(section(page, "coders"))
    coded = record.tensors[0].bytes_values + record.tensors[0].bytes_positions
    over = 100 * (coded / record.tensors[0].entropy_bytes - 1)
    assert coders[1] == ["fc1.weight", "index: ans", "17,350.3", f"{coded:,}", f"{over:.2f} %", "112"]
    assert coders[2][1:3] == ["–", "–"]
    stages = table(section(page, "stages"))
    assert stages[2] == ["2. prune.magnitude", "58,204", "18.3×", "21,786", "1.61 %", "0.057", "21.0 s"]


def test_training_table_has_every_epoch(page, record):
    rows = table(section(page, "training"))
    assert len(rows) == len(record.epochs) + 1
    assert rows[21][:2] == ["1 prune.magnitude", "1"]


def test_macs_are_not_called_time(page):
    text = plain(section(page, "macs").text)
    assert "266,200 multiply-accumulates" in text and "21,776 of these (8.18 %)" in text
    assert "of the file read back" not in text
    assert "no measure of time" in text


def test_a_network_with_fewer_channels_says_how_much_it_computes(record, parse):
    fewer = record.model_copy(update={"figures": record.figures.model_copy(update={"macs_file": 133_100})})
    assert "133,100 (50.00 %) of the file read back" in plain(section(parse(render([fewer])), "macs").text)


def test_the_recipe_reads_back_and_the_command_is_there(page, record):
    command, recipe = section(page, "recipe").all("pre")
    assert yaml.safe_load(recipe.text) == record.recipe
    assert "tersenet compress recipe.yaml" in command.text


def test_command_for_python_objects(record, parse):
    recipe = {key: value for key, value in record.recipe.items() if key != "model"}
    page = parse(render([record.model_copy(update={"recipe": recipe})]))
    command = section(page, "recipe").all("pre")[0].text
    assert "tersenet.compress(model, " in command and "# model: the Python objects" in command


def test_command_quotes_the_file_name(record):
    page = render([record.model_copy(update={"file": "a b; rm -rf x.terse"})])
    assert "tersenet evaluate &#39;a b; rm -rf x.terse&#39;" in page


def test_missing_values_have_a_reason(record, parse):
    figures = {name: None for name in type(record.figures).model_fields if re.match("test_|valid|macs", name)}
    stages = tuple(s.model_copy(update={"validation_error": None, "validation_loss": None}) for s in record.stages)
    tensors = tuple(row.model_copy(update={"before": None, "after": None}) for row in record.tensors)
    bare = record.model_copy(
        update={
            "figures": record.figures.model_copy(update=figures),
            "stages": stages,
            "tensors": tensors,
            "epochs": (),
            "notes": (),
        }
    )
    page = parse(render([bare]))
    text = plain(page.all("main")[0].text)
    assert "None" not in text
    assert "–not measured: the run had no test or validation split with labels" in text
    assert "– not measured: no validation split" in plain(section(page, "stages").text)
    assert "– multiply-accumulates were not counted" in text
    assert "– no histograms were recorded" in text
    assert "Nothing was trained" in text
    assert "No stage reported anything" in text
    assert not section(page, "stages").all("figure")


EVIL = "<script>alert(1)</script>\"' onload=x{{7*7}}]]>--></style>"


def test_everything_from_the_record_is_escaped(record, parse):
    tensors = tuple(
        row.model_copy(update={"name": EVIL, "form": EVIL, "coders": {EVIL: EVIL}}) for row in record.tensors
    )
    evil = record.model_copy(
        update={
            "tensors": tensors,
            "stages": tuple(stage.model_copy(update={"name": EVIL}) for stage in record.stages),
            "epochs": tuple(epoch.model_copy(update={"phase": EVIL}) for epoch in record.epochs),
            "notes": (EVIL,),
            "recipe": {EVIL: EVIL, "model": EVIL, "data": EVIL},
            "versions": {EVIL: EVIL},
            **dict.fromkeys(("file", "machine", "data", "data_digest", "file_digest", "recipe_hash"), EVIL),
        }
    )
    for text in (render([evil]), render([evil, evil])):
        assert "<script" not in text and "{{7*7}}" in text and "49]]" not in text
        page = parse(text)
        tags = {node.tag for node in page.all()}
        assert not tags & {"script", "img", "iframe", "object", "link", "base", "form"}
        assert not [key for node in page.all() for key in node.attributes if key.startswith("on")]
        assert EVIL in page.text
        assert any(node.attributes.get("aria-label", "").startswith(EVIL) for node in page.all("svg"))


def test_control_characters_do_not_get_through(record):
    page = render([record.model_copy(update={"notes": ("a\x00b\x1b[31mc\u202ed",)})])
    assert "a�b�[31mc�d" in page


def test_self_contained(record):
    page = render([record])
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?:", page)
    assert "default-src 'none'" in page
    assert len(page.encode()) < 100_000


def test_same_records_same_page(record):
    assert render([record]) == render([record])


def test_comparison_of_several_runs(record, parse):
    other = record.model_copy(
        update={
            "recipe": {**record.recipe, "seed": 2},
            "seed": 2,
            "figures": record.figures.model_copy(update={"test_error_file": 0.0162}),
        }
    )
    page = parse(render([record, other]))
    comparison = next(node for node in page.all("section") if node.attributes["id"] == "comparison")
    rows = table(comparison)
    assert rows[1][:6] == ["1. lenet_300_100 on mnist", "21,517", "49.6×", "test error", "1.64 %", "1.58 %"]
    assert rows[2][5:] == ["1.62 %", "22,186", "1 min 15 s", "2", record.recipe_hash]
    assert table(comparison, 1)[1] == ["1, 2", "1, 2", "21,517 ± 0 bytes", "test error 1.60 % ± 0.03 %"]
    assert len(comparison.all("circle")) == 2
    assert len(page.all("details", class_="run")) == 2
    ids = [node.attributes["id"] for node in page.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    assert {link.attributes["href"][1:] for link in comparison.all("a")} <= set(ids)
    for run in (1, 2):
        for name in SECTIONS:
            assert section(page, name, run).all("h3")
    assert "cannot be compared" not in plain(comparison.text)


def test_different_data_is_said(record):
    other = record.model_copy(update={"data_digest": "elsewhere"})
    assert "their errors cannot be compared" in render([record, other])


def test_a_net_of_many_layers_stays_readable(record, parse):
    rows = tuple(
        record.tensors[place % 6].model_copy(update={"name": f"blocks.{place}.{record.tensors[place % 6].name}"})
        for place in range(300)
    )
    figures = {"file_bytes": record.bytes_file_header + sum(row.bytes for row in rows)}
    big = record.model_copy(update={"tensors": rows, "figures": record.figures.model_copy(update=figures)})
    text = render([big])
    page = parse(text)
    names = [plain(node.text) for node in section(page, "bytes").all("span", class_="name")]
    assert len(names) == 13 and names[-1] == "289 smaller ones"
    assert len(table(section(page, "bytes"))) == 300 + 3
    assert len(section(page, "weights").all("figure")) == 24
    assert "126 tensors with fewer parameters are left out" in plain(section(page, "weights").text)
    assert len(text) < 500_000


def test_plots_have_text_alternatives_and_tables_captions(page):
    labelled = [node for node in page.all("svg") if node.attributes.get("role") == "img"]
    assert len(labelled) >= 10
    assert all(len(node.attributes["aria-label"]) > 20 for node in labelled)
    assert all(len(node.all("caption")) == 1 for node in page.all("table"))
    assert all(node.attributes.get("scope") in ("row", "col") for node in page.all("th"))
    levels = [int(node.tag[1]) for node in page.all() if re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1 and set(levels[1:]) == {2}


def test_imports_no_torch():
    code = "import sys, tersenet.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_is_called_by_its_model_and_data(record, parse):
    def heading(**update) -> str:
        return plain(parse(render([record.model_copy(update=update)])).all("h1")[0].text)

    assert heading() == "lenet_300_100 on mnist"
    assert heading(recipe={"model": {"factory": "nets.small:make"}}) == "nets.small:make on mnist"
    assert heading(recipe={}, data="") == "lenet_300_100.terse"
