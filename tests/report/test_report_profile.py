"""A profile on a console, on its page, and in the page of a run; figures made up, and small enough to check by hand."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from tersenet.core.errors import TersenetError
from tersenet.core.profile import Cost, Energy, LayerCost, Profile, Roof, Side
from tersenet.report import render
from tersenet.report.layers import arranged, columns
from tersenet.report.profile import as_json, print_profile, render_profile, write_profile
from tersenet.report.roofline import roofline, shares

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script>\"' onload=x{{7*7}}--></style>"
ROOF = Roof(flops=1e11, bandwidth=1e10)


def cost(macs, weights, activations, seconds=None, energy=None):
    return Cost(
        macs=macs,
        nonzero=macs,
        parameters=weights // 4,
        outputs=activations // 8,
        output_bytes=activations // 2,
        live_bytes=activations,
        bytes=weights,
        weight_traffic=weights,
        activation_traffic=activations,
        energy=None if macs is None else Energy(arithmetic=4.6 * macs, weights=160.0 * weights, activations=1e3),
        seconds=seconds,
    )


def layers():
    """Least times: 10 ms of arithmetic, 4 ms of weights, 1 ms of activations; one layer that cannot be told."""
    return (
        LayerCost(name="conv", kind="Conv2d", dense=cost(5 * 10**8, 4 * 10**5, 8 * 10**5, 12.5e-3)),
        LayerCost(name="", kind="Net", dense=cost(0, 0, 10**7, 2e-3)),
        LayerCost(name="fc", kind="Linear", dense=cost(10**7, 4 * 10**7, 4000, 3e-3)),
        LayerCost(name="fft", kind="Spectrum", unknown=("aten::_fft_r2c",), dense=cost(None, 0, 800)),
    )


def profile(rows=None, **changes):
    values = {
        "model": "net",
        "inputs": ("1×3×8×8 float32",),
        "batch": 1,
        "machine": "2 cores",
        "dense": Side(peak_bytes=10**7, bytes=40_400_000, seconds=18e-3),
        "roof": ROOF,
        "layers": rows or layers(),
        "notes": ("operator aten::_fft_r2c is not known",),
    }
    return Profile(**{**values, **changes})


def with_file():
    """The first layer has half its channels, the third has gone."""
    first, whole, third, _ = layers()
    rows = (
        first.model_copy(update={"file": cost(25 * 10**7, 5 * 10**4, 4 * 10**5, 6e-3)}),
        whole.model_copy(update={"file": cost(0, 0, 10**6, 1e-3)}),
        third,
    )
    return profile(rows, file=Side(peak_bytes=10**6, bytes=60_000, seconds=7e-3), notes=())


def plain(text):
    return " ".join(text.replace("\u00a0", " ").split())


def printed(found, *, width=None, **options):
    out = io.StringIO()
    print_profile(found, console=Console(file=out, width=width, force_terminal=bool(width), no_color=True), **options)
    return out.getvalue()


def test_shares_of_the_least_time():
    found = {share.bound: share for share in shares(ROOF, [layer.dense for layer in layers()])}
    assert {bound: share.seconds for bound, share in found.items()} == {
        "arithmetic": pytest.approx(10e-3),
        "weights": pytest.approx(4.0004e-3),
        "activations": pytest.approx(1e-3),
    }
    assert sum(share.share for share in found.values()) == pytest.approx(1)
    assert list(found) == ["arithmetic", "weights", "activations"]


@pytest.mark.parametrize("found", [profile(), with_file()])
def test_every_column_sorts(found):
    for column in columns(found):
        values = [column.value(found, layer) for layer in arranged(found, column.key)]
        told = [value for value in values if value is not None]
        assert values[len(told) :] == [None] * (len(values) - len(told))
        assert told == sorted(told, reverse=not column.words), column.key
    assert arranged(found, "order") == arranged(found, None) == found.layers
    assert len(arranged(found, "macs", 2)) == 2


def test_an_unknown_column():
    with pytest.raises(TersenetError, match="--sort macc: there is no such column; did you mean 'macs'"):
        arranged(profile(), "macc")
    with pytest.raises(TersenetError, match="dense_macs"):  # only of a file
        arranged(profile(), "dense_macs")
    assert arranged(with_file(), "dense_macs")[1].name == "fc"


def test_the_console():
    text = plain(printed(profile(), sort="macs", top=2))
    assert "conv Conv2d 500,000,000 100,000" in text and "… and 2 more layers" in text
    assert text.index("conv Conv2d") < text.index("fc Linear")
    assert "MACs at least 510,000,000" in text
    assert "least time 15.0 ms if all comes from memory: 67 % bound by arithmetic (fewer multiplications help)" in text
    assert "27 % bound by weights (fewer bytes of weights help)" in text
    assert "measured 18.0 ms" in text and "note: operator aten::_fft_r2c is not known" in text
    assert "100 GFLOP/s, 10.0 GB/s, measured now" in text
    assert "an estimate (arithmetic 2.35 mJ, weights 6.46 mJ, activations 3.00 nJ); everything from DRAM" in text
    beside = plain(printed(with_file()))
    assert "MACs 250,000,000 of 510,000,000" in beside
    assert "file 60,000 bytes, dense in memory 40,400,000 bytes" in beside
    assert "fc Linear 10,000,000 – –" in beside  # it has gone


def test_a_narrow_terminal():
    lines = printed(with_file(), width=80).splitlines()
    assert "conv  Conv2d  arithmetic" in lines
    assert max(len(line) for line in lines if line.startswith("   ")) <= 100


def test_an_unknown_layer_is_not_zero_anywhere():
    found = profile()
    assert {c.key for c in columns(found) if c.cell(found, found.layers[3]) == "–"} == {
        *("macs", "energy", "intensity", "bound", "least", "measured"),
    }
    assert as_json(found)["layers"][3]["dense"]["macs"] is None


def test_json_has_what_the_table_derives():
    found = as_json(profile(), "macs", 1)
    assert len(found["layers"]) == 1
    assert found["layers"][0]["least"] == pytest.approx(10e-3)
    assert found["layers"][0]["intensity"] == pytest.approx(1e9 / 1.2e6)
    assert found["layers"][0]["bound"] == "arithmetic"
    assert found["totals"]["here"]["macs"] == 510_000_000
    assert found["least"]["weights"] == pytest.approx(4.0004e-3)
    json.dumps(found, allow_nan=False)


def test_the_roofline_plot():
    """The line bends where 100 GFLOP/s meet 10 GB/s, at 10 FLOP per byte; points stand at their measured speed."""
    plot = roofline(profile())
    line, arithmetic, memory = plot.lines
    places = re.findall(r"[ML]([\d.]+) ([\d.]+)", line.path)
    bend_x, bend_y = (float(part) for part in places[1])
    assert (bend_x, 100 - bend_y) == (plot.x.place(10), pytest.approx(plot.y.place(100)))
    (conv,) = arithmetic.marks
    assert (conv.x, conv.y) == (plot.x.place(1e9 / 1.2e6), plot.y.place(1 / 12.5e-3))
    assert plain(conv.title) == "1 conv: 833 FLOP/byte, 80.0 GFLOP/s, 12.5 ms, bound by arithmetic"
    (fc,) = memory.marks
    assert fc.y == plot.y.place(0.02 / 3e-3)
    assert roofline(profile(roof=None)) is None
    assert roofline(profile(layers()[1:2])) is None


def test_numbers_in_the_plot_do_not_lie_on_each_other():
    """Of layers of one intensity and nearly one speed only the slowest has its number; all can be hovered over."""
    rows = tuple(
        LayerCost(name=f"conv{n}", kind="Conv2d", dense=cost(10**8, 4000, 10**6, 3e-3 + 1e-5 * n)) for n in range(20)
    )
    (line,) = roofline(profile((*rows, *layers()[:1]))).lines[1:]
    assert len(line.marks) == 21
    assert sorted(label.text for label in line.labels) == ["20", "21"]


@pytest.mark.parametrize("found", [profile(), with_file(), profile(roof=None), profile(layers()[3:])])
def test_the_page_is_whole(found, parse):
    page = parse(render_profile(found))
    text = plain(page.all("main")[0].text)
    assert "None" not in text and "an estimate" in text
    rows = next(node for node in page.all("table", class_="sortable")).all("tr")
    assert len(rows) == len(found.layers) + 1
    assert len({len([c for c in row.children if not isinstance(c, str)]) for row in rows}) == 1
    assert all(len(node.all("caption")) == 1 for node in page.all("table"))
    assert render_profile(found) == render_profile(found)


def test_only_its_own_script_can_run(parse):
    evil = tuple(layer.model_copy(update={"name": EVIL + layer.name, "kind": EVIL}) for layer in layers())
    text = render_profile(profile(evil, model=EVIL, notes=(EVIL,), machine=EVIL, inputs=(EVIL,)))
    page = parse(text)
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    policy = next(node.attributes["content"] for node in page.all("meta") if "http-equiv" in node.attributes)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not [key for node in page.all() for key in node.attributes if key.startswith("on")]
    assert "{{7*7}}" in text and not re.findall(r"(?:src|href)=|url\(|@import|https?:", text)


def test_written_whole_or_told(tmp_path):
    assert write_profile(profile(), tmp_path / "p.html").read_text() == render_profile(profile())
    with pytest.raises(TersenetError, match="none"):
        write_profile(profile(), tmp_path / "none/p.html")


def test_the_section_of_a_run(record, parse):
    page = parse(render([record.model_copy(update={"layers": with_file().layers})]))
    section = next(node for node in page.all("section") if node.attributes.get("id") == "run1-costs")
    rows = [[plain(c.text) for c in row.children if not isinstance(c, str)] for row in section.all("tr")]
    assert rows[1][:5] == ["conv", "Conv2d", "500,000,000", "250,000,000", "250,000,000"]
    assert rows[2][0] == "(the model)" and rows[3][3:5] == ["–", "–"]
    assert rows[1][8:] == ["2.36 mJ", "1.16 mJ"]
    assert "an estimate" in plain(section.text)
    bare = next(n for n in parse(render([record])).all("section") if n.attributes.get("id") == "run1-costs")
    assert "no costs by layer were recorded" in plain(bare.text)


CLICK = """
const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
const names = () => [...page.querySelectorAll("table.sortable tbody tr")].map(row => row.cells[0].textContent.trim());
const found = {before: names(), width: root.scrollWidth - root.clientWidth};
for (const button of page.querySelectorAll("table.sortable thead button")) {
  const title = button.textContent;
  button.click();
  found[title] = names();
  found[title + " sort"] = button.closest("th").getAttribute("aria-sort");
  button.click();
  found[title + " again"] = names();
}
document.body.textContent = "RESULT" + JSON.stringify(found) + "END";
"""


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium installed")
@pytest.mark.parametrize("width", [390, 1400])
def test_a_click_on_a_header_sorts(tmp_path, width):
    page = html.escape(render_profile(profile()))
    frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>'
    outer = f'<!DOCTYPE html><meta charset="utf-8"><body>{frame}<script>onload = () => {{{CLICK}}}</script></body>'
    (tmp_path / "outer.html").write_text(outer, encoding="utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=3000")
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{tmp_path}/outer.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = json.loads(html.unescape(re.search("RESULT(.*)END", done.stdout)[1]))
    assert seen["width"] <= 0
    assert seen["before"] == ["conv", "(the model)", "fc", "fft"]
    assert seen["MACs"] == ["conv", "fc", "(the model)", "fft"] and seen["MACs sort"] == "descending"
    assert seen["MACs again"] == ["(the model)", "fc", "conv", "fft"]  # what cannot be told stays last
    assert seen["layer"] == ["(the model)", "conv", "fc", "fft"] and seen["layer sort"] == "ascending"
    assert seen["run as"] == seen["before"]
