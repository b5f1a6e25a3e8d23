"""The report as a page: order, content, escaping, no remote assets."""

import html.parser
import re
from xml.etree import ElementTree

import pytest

from tests.fakes import evaluations
from tfx_mobile.quantization_evaluator.report import format_bytes, format_change, format_number, make_plot, render
from tfx_mobile.records import Reason


@pytest.fixture(scope="module")
def page():
    return render(evaluations.record())


def test_verdicts_come_first_then_table_plot_and_slices(page):
    order = ["Blessed: integer_only_int8</h1>", "Verdicts", "All examples", "Size and compression", "Size against"]
    order += ["Where the error", "Slices"]
    positions = [page.index(text) for text in order]
    assert positions == sorted(positions)


def test_every_reason_is_on_the_page(page):
    for verdict in evaluations.record().verdicts:
        for reason in verdict.reasons:
            assert reason.message.replace(">", "&gt;").replace("<", "&lt;") in page


def _rows(page, heading):
    """The table below a heading: texts of the cells by the row's name."""
    table = page[page.index(heading) :].split("</table>")[0].partition("<tbody>")[2]
    rows = [re.findall(r"<t[hd].*?</t[hd]>", row) for row in table.split("</tr>") if "<th" in row]
    texts = [[re.sub(r"<[^>]+>", " ", cell).replace("_ ", "_").split() for cell in row] for row in rows]
    return {name[0]: [" ".join(cell) for cell in (name[1:], *cells)] for name, *cells in texts}


def test_rows_from_quantization_aware_training_are_marked(page):
    assert "quantization-aware" not in page
    marked = render(evaluations.record(trained="integer_only_int8"))
    rows = _rows(marked, "All examples")
    assert [name for name, cells in rows.items() if "quantization-aware training" in cells[0]] == ["integer_only_int8"]
    assert "it holds the further training too" in marked


def test_compressed_size_and_its_reasons_stand_beside_the_size():
    rows = _rows(render(evaluations.record(trained="integer_only_int8")), "Size and compression")
    assert rows["integer_only_int8"][1:] == ["78.5 kB", "39.2 kB", "72,000", "70.0 %", "16"]
    assert rows["float32"][1:4] == ["292 kB", "292 kB", "not recorded"]
    assert "int16x8" not in rows  # it has no file


def test_not_blessed_is_said_at_the_top():
    page = render(evaluations.record(winner=None))
    assert "<h1>Not blessed</h1>" in page
    assert "✓ blessed" not in page


def test_the_page_needs_nothing_but_itself_and_runs_nothing(page):
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|https?://|javascript:", page)
    assert "prefers-color-scheme: dark" in page
    assert '<meta name="viewport" content="width=device-width' in page


def test_the_page_is_well_formed(page):
    class Checker(html.parser.HTMLParser):
        open_tags: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "wbr", "br"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("line", "circle", "path"):
                assert self.open_tags.pop() == tag

        def handle_startendtag(self, tag, attrs):
            pass

    checker = Checker()
    checker.feed(page)
    assert checker.open_tags == []
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert ElementTree.fromstring(svg).tag == "svg"


def test_what_came_from_outside_is_escaped():
    record = evaluations.record()
    evil = "<script>alert('x')</script>"
    reason = Reason(code="threshold", message=evil, metric=evil, slice=evil)
    verdicts = (record.verdicts[0].model_copy(update={"passed": False, "reasons": (reason,)}), *record.verdicts[1:])
    (baseline, *others) = record.models
    slices = (baseline.slices[0], baseline.slices[1].model_copy(update={"slice": evil}))
    models = (baseline.model_copy(update={"slices": slices}), *others)
    page = render(record.model_copy(update={"verdicts": verdicts, "models": models, "splits": (evil,)}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3


def test_equal_records_give_equal_pages(page):
    assert page == render(evaluations.record())


def test_the_plot_shows_each_scored_variant_at_its_size_and_accuracy():
    record = evaluations.record()
    plot = make_plot(record)
    points = {point.name: point for point in plot.points}
    assert set(points) == {model.model for model in record.models[1:]}
    assert plot.metric == "sparse_categorical_accuracy"
    assert points["float32"].x > points["float16"].x > points["integer_only_int8"].x
    assert points["float32"].y < points["integer_only_int8"].y < points["integer_only_uint8"].y  # downwards
    assert points["float32"].y == plot.baseline_y
    assert [point.name for point in plot.points if point.winner] == ["integer_only_int8"]
    for point in plot.points:
        assert plot.left <= point.x <= plot.width
        assert plot.top <= point.y <= plot.height - plot.bottom
    labels = sorted((point.label_y, point.label_x) for point in plot.points)
    assert len(set(labels)) == len(labels)


def test_a_record_without_scored_variants_has_no_plot():
    record = evaluations.record(winner=None)
    record = record.model_copy(update={"models": record.models[:1], "error_splits": None})
    assert make_plot(record) is None
    page = render(record)
    assert "<svg" not in page
    assert "Where the error" not in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_bytes(999), "999 B"),
        (format_bytes(38_000), "38.0 kB"),
        (format_bytes(292_340), "292 kB"),
        (format_bytes(4_560_000), "4.56 MB"),
        (format_number(None), "not finite"),
        (format_number(20_000.0), "20,000"),
        (format_number(0.93164), "0.9316"),
        (format_number(1.0), "1.0000"),
        (format_change(-0.0123), "\N{MINUS SIGN}0.0123"),
        (format_change(0.00001), "±0"),
        (format_change(None), "not finite"),
    ],
)
def test_numbers_are_short(text, expected):
    assert text == expected
