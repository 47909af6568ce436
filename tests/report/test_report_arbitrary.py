"""Any record at all gives a page that parses and tables that print."""

from __future__ import annotations

import io
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tersenet.core.record import Epoch, Figures, Histogram, Record, StageRow, TensorRow
from tersenet.report import print_summary, render

text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("<>&\"'{%}\\/`"), max_size=12)
whole = st.integers(0, 10**6) | st.integers(-(10**30), 10**30)
real = st.floats(-1, 2) | st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | real
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | real | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
histograms = st.builds(Histogram, low=real, high=real, counts=st.lists(whole, max_size=9).map(tuple), zeros=whole)
tensors = st.builds(
    TensorRow,
    name=text,
    shape=st.lists(whole, max_size=4).map(tuple),
    form=text,
    coders=st.dictionaries(text, text, max_size=2),
    parameters=whole,
    nonzero=whole,
    distinct=whole,
    bytes_values=whole,
    bytes_positions=whole,
    bytes_tables=whole,
    bytes_header=whole,
    entropy_bytes=real,
    before=st.none() | histograms,
    after=st.none() | histograms,
)
epochs = st.builds(
    Epoch, phase=text, epoch=real, train_loss=real, validation_loss=maybe, validation_error=maybe, lr=real
)
stages = st.builds(
    StageRow,
    name=text,
    validation_error=maybe,
    validation_loss=maybe,
    nonzero=whole,
    file_bytes=whole,
    seconds=real,
)
figures = st.fixed_dictionaries(
    {
        name: {"int": whole, "float": real, "int | None": st.none() | whole, "float | None": maybe}[
            str(field.annotation.__name__ if isinstance(field.annotation, type) else field.annotation)
        ]
        for name, field in Figures.model_fields.items()
    }
).map(lambda values: Figures(**values))
records = st.builds(
    Record,
    recipe=st.dictionaries(text, plain, max_size=4),
    recipe_hash=text,
    file=text,
    file_digest=text,
    data=text,
    data_digest=text,
    seed=st.integers(0, 3),
    machine=text,
    versions=st.dictionaries(text, text, max_size=2),
    figures=figures,
    bytes_file_header=whole,
    tensors=st.lists(tensors, max_size=3).map(tuple),
    stages=st.lists(stages, max_size=3).map(tuple),
    epochs=st.lists(epochs, max_size=5).map(tuple),
    notes=st.lists(text, max_size=2).map(tuple),
)
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KNOWN = (
    "html|head|meta|title|style|body|main|header|footer|section|div|p|h1|h2|h3|dl|dt|dd|ol|ul|li|figure|figcaption|"
    "table|caption|thead|tbody|tfoot|tr|th|td|span|small|b|a|code|pre|details|summary|wbr|svg|rect|line|path|text|g|"
    "circle"
)


@many
@given(st.lists(records, min_size=1, max_size=3))
def test_every_record_gives_a_page_that_parses(parse, drawn):
    page = parse(render(drawn))
    assert all(re.fullmatch(KNOWN, node.tag) for node in page.all())
    attributes = {key for node in page.all() for key in node.attributes}
    assert not {key for key in attributes if key.startswith("on") or key in ("src", "style")}
    for node in page.all():
        for key in ("x", "y", "cx", "cy", "width", "height", "d"):
            value = node.attributes.get(key, "")
            assert "nan" not in value and "inf" not in value and not (key != "d" and value.startswith("-"))


@many
@given(records, st.booleans())
def test_every_record_gives_a_summary_that_fits(record, terminal):
    file = io.StringIO()
    print_summary(record, "runs/x", Console(file=file, force_terminal=terminal, width=80, color_system=None))
    assert "\x1b" not in file.getvalue().replace("\x1b[0m", "").replace("\x1b[1m", "")
