"""The page in headless Chromium: fits every width, runs no script, and shows what the record says."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from tersenet.report import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000"),
)
WIDTHS = (320, 390, 768, 1280)
EVIL = "<script>parent.document.title='broken in'</script><img src=x onerror=\"parent.document.title='broken in'\">"

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="no Chromium installed")]

MEASURE = """
const middle = element => {
  const box = element.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
};
const places = svg => svg && {
  points: [...svg.querySelectorAll("circle")].map(middle),
  ticks: [...svg.querySelectorAll("text.y")].map(tick => [parseFloat(tick.textContent), middle(tick)[1]]),
  numbers: [...svg.querySelectorAll("text.number")].map(middle),
  line: (({left, top, right, bottom}) => [left, top, right, bottom])(svg.querySelector("path").getBoundingClientRect()),
};
const results = [];
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, root = page.documentElement;
  const cells = row => [...row.cells].map(cell => cell.textContent.trim());
  const visible = page.querySelectorAll("section");
  results.push({
    width: frame.clientWidth,
    scroll: root.scrollWidth,
    sections: [...visible].filter(s => s.getBoundingClientRect().height > 40).map(s => s.id),
    bytes: [...page.querySelectorAll("#run1-bytes table tr")].map(cells),
    scripts: page.scripts.length + page.images.length,
    bar: [...page.querySelectorAll("#run1-bytes .bars li:first-child rect")].map(r => r.getBoundingClientRect().width),
    plot: places(page.querySelector("#run1-stages .frame > svg")),
    overlap: [...page.querySelectorAll(".frame > svg")].some(svg => {
      const labels = [...svg.querySelectorAll(":scope > text.x")].map(t => t.getBoundingClientRect());
      const ends = labels.filter(box => box.width);
      return ends.some((box, i) => i && box.left < ends[i - 1].right);
    }),
  });
}
document.body.textContent = "RESULT" + JSON.stringify(results) + "END";
"""


def look(page: str, folder, widths=WIDTHS) -> tuple[list[dict], str, str]:
    """Load `page` in frames of the given widths: measurements, the outer page's DOM, and Chromium's log."""
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
        for width in widths
    )
    outer = f"<title>untouched</title><body>{frames}<script>onload = () => {{{MEASURE}}}</script></body>"
    (folder / "outer.html").write_text(f'<!DOCTYPE html><meta charset="utf-8">{outer}', encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile", "--dump-dom", f"file://{folder}/outer.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search("RESULT(.*)END", done.stdout)
    assert found, done.stdout[:500] + done.stderr[-500:]
    return json.loads(html.unescape(found[1])), done.stdout, done.stderr


@pytest.fixture(scope="module")
def seen(record, tmp_path_factory):
    named = (record.tensors[0].model_copy(update={"name": EVIL}), *record.tensors[1:])
    evil = record.model_copy(update={"tensors": named, "notes": (EVIL, "x" * 500), "machine": "m" * 300})
    return look(render([evil]), tmp_path_factory.mktemp("browser"))


def test_no_width_scrolls_sideways(seen):
    assert [result["width"] for result in seen[0]] == list(WIDTHS)
    for result in seen[0]:
        assert result["scroll"] <= result["width"], result["width"]
        assert not result["overlap"], f"labels of the x axis overlap at {result['width']} px"


def test_no_script_runs_and_nothing_is_complained_about(seen):
    results, dom, log = seen
    assert all(result["scripts"] == 0 for result in results)
    assert "<title>untouched</title>" in dom
    assert not [line for line in log.splitlines() if "CONSOLE" in line]


def test_every_section_is_laid_out(seen):
    names = ("size", "bytes", "stages", "training", "layers", "weights", "coders", "macs", "costs", "notes", "recipe")
    for result in seen[0]:
        assert result["sections"] == [f"run1-{name}" for name in names]


def test_sums_on_the_page_are_those_of_the_record(seen, record):
    _, *rows, last = seen[0][0]["bytes"]
    totals = [int(row[5].replace(",", "")) for row in rows]
    assert totals == [*(row.bytes for row in record.tensors), record.bytes_file_header]
    assert sum(totals) == int(last[5].replace(",", "")) == record.figures.file_bytes
    assert rows[0][0] == EVIL


def test_bars_have_the_lengths_of_their_numbers(seen, record):
    track, *pieces = seen[0][-1]["bar"]
    first = record.tensors[0]
    parts = (first.bytes_values, first.bytes_positions, first.bytes_tables, first.bytes_header)
    assert len(pieces) == 4
    for piece, part in zip(pieces, parts, strict=True):
        assert piece == pytest.approx(track * part / first.bytes, abs=1.5)


def test_points_stand_at_their_error(seen, record):
    """The error read off the y axis, from where its labels stand in the browser, is the error of the stage."""
    plot = seen[0][-1]["plot"]
    (low, bottom), *_, (high, top) = plot["ticks"]
    assert low < high and bottom > top
    read = [low + (bottom - y) / (bottom - top) * (high - low) for _, y in plot["points"]]
    assert read == pytest.approx([100 * stage.validation_error for stage in record.stages], abs=0.02)
    xs, ys = zip(*plot["points"], strict=True)
    assert plot["line"] == pytest.approx([min(xs), min(ys), max(xs), max(ys)], abs=2)
    for (x, y), (number_x, number_y) in zip(plot["points"], plot["numbers"], strict=True):
        assert abs(x - number_x) < 2 and 8 < y - number_y < 25


def test_several_runs_fit_too(record, tmp_path):
    long = record.model_copy(update={"file": "a_rather_long_name_of_a_file_" * 5 + ".terse", "data": "d" * 200})
    results, _, log = look(render([record, long, record]), tmp_path)
    for result in results:
        assert result["scroll"] <= result["width"], result["width"]
        assert "comparison" in result["sections"]
    assert "CONSOLE" not in log
