"""The report as a page: order, content, escaping, and that what is absent leaves no trace."""

import html.parser
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fakes import evaluation_records
from tests.fakes.evaluation_records import ACCURACY
from tfx_mobile.quantization_evaluator.report import (
    compatibility,
    forest,
    formatting,
    pareto,
    render_card,
    render_page,
    strips,
)
from tfx_mobile.records import (
    Budget,
    Change,
    Confidence,
    ErrorSplit,
    EvaluationRecord,
    LatencyRecord,
    LatencyResult,
    LayerError,
    LayerErrors,
    MetricError,
    Reason,
    SliceMetrics,
)

WINNER = "integer_only_int8"
SECTIONS = ["verdicts", "variants", "pareto", "changes", "production", "layers", "compatibility", "fidelity"]
SECTIONS += ["errors", "slices", "latency", "compression", "gates", "origin"]


@pytest.fixture(scope="module")
def record():
    return evaluation_records.record(trained=WINNER)


@pytest.fixture(scope="module")
def page(record):
    return render_page(record)


@pytest.fixture(scope="module")
def refused():
    return render_page(evaluation_records.record(winner=None))


def section(page, name):
    """The text of a section, tags removed; empty if there is none."""
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    return words(found[0]) if found else ""


def words(markup):
    without = re.sub(r"<wbr>|<title>.*?</title>", "", markup)
    text = re.sub(r"<[^>]+>", " ", without)
    for entity, character in (("&gt;", ">"), ("&lt;", "<"), ("&#39;", "'"), ("&#34;", '"'), ("&amp;", "&")):
        text = text.replace(entity, character)
    return " ".join(text.split())


def rows(page, name, table=0):
    """A section's table: texts of the cells by the row's name."""
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]
    body = re.findall(r"<tbody.*?</tbody>", found, re.DOTALL)[table]
    cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in body.split("</tr>") if "<th" in row]
    cells = [[words(re.sub(r'<span class="label".*?</span>', "", cell)) for cell in row] for row in cells]
    return {name: rest for name, *rest in cells}


def change(**values):
    defaults = {"variant": WINNER, "reference": "saved_model", "metric": ACCURACY, "slice": "overall"}
    return Change(**{**defaults, "num_examples": 40, "change": -0.01, **values})


def test_the_verdict_comes_first_and_every_section_has_its_place(page):
    assert page.index("Blessed: integer_<wbr>only_<wbr>int8</h1>") < page.index("<section")
    assert re.findall(r'<section id="(\w+)"', page) == SECTIONS
    assert re.findall(r'<li><a href="#(\w+)"', page) == SECTIONS


def test_the_verdict_says_what_it_rests_on(page):
    header = words(page[page.index("<header") : page.index("</header>")])
    assert "The best by size (60 %) and quality (40 %) of 4 variants that pass every gate. ! 1 caution" in header
    assert "78.5 kB 3.7 times smaller than float32; 39.2 kB after gzip" in header
    assert "0.9742 change −0.0022 [−0.0086, +0.0042], 95 % interval" in header
    assert "0.41× this machine, not a phone" in header
    assert "9.26 MB" in header
    assert "about 90 examples would decide" in header


def test_not_blessed_says_why_at_the_top(refused):
    header = words(refused[refused.index("<header") : refused.index("</header>")])
    assert "✕ Not blessed" in header
    assert f"5 of 7 miss a threshold on {ACCURACY}. 1 of 7 exceeds the budget. 1 of 7 could not be converted." in header
    assert "✓ blessed" not in refused


def test_the_only_one_is_not_called_the_best():
    header = words(render_page(evaluation_records.crowded(5, 2)))
    assert "The only one of 5 variants that passes every gate." in header


def test_every_reason_and_caution_is_on_the_page(page, record):
    text = words(page)
    for verdict in record.verdicts:
        for reason in (*verdict.reasons, *verdict.cautions):
            assert reason.message in text


def test_many_slices_that_are_not_decided_make_one_sentence(record):
    def undecided(name):
        return Reason(
            code="insufficient_data",
            message=f"{ACCURACY} changes by +0.0000 against the float model on slice {name}; not decided.",
            metric=ACCURACY,
            slice=name,
            limit="change >= -0.06",
        )

    few, many = ([undecided(f"label:{index}") for index in range(count)] for count in (3, 4))
    other = Reason(code="objective", message="Latency was not weighed.")
    for cautions, shown in (
        (few, [c.message for c in few]),
        (
            many,
            [
                f"{ACCURACY} against the float model: the data do not decide on 4 slices "
                "(label:0, label:1, label:2, …); required: change >= -0.06."
            ],
        ),
    ):
        verdicts = [
            verdict.model_copy(update={"cautions": (*cautions, other)}) if verdict.passed else verdict
            for verdict in record.verdicts
        ]
        text = words(render_page(record.model_copy(update={"verdicts": tuple(verdicts)})))
        assert all(message in text for message in (*shown, other.message))
        assert ("not decided." in text) == (cautions is few)


def test_the_table_has_costs_metrics_and_what_misses_a_limit(page):
    found = rows(page, "variants")
    assert found["float32"][:3] == ["✕ not blessed", "✕ 292 kB misses its limit", "263 kB"]
    assert found["float16"][3] == "0.97× Pixel 8, CPU, 1 thread"  # a device's number comes before this machine's
    assert found["dynamic_range"][3] == "0.71× this machine, not a phone"
    assert found["integer_only_uint8"][6] == "✕ 0.8464 misses its limit −0.1300"
    assert found["int16x8"][1:7] == ["no file", "", "", "", "", "not scored"]
    assert [found[name][5] for name in ("float32", "float16", "full_integer")] == ["", "0.455", "0.31"]
    assert found["production what phones run today"][6] == "0.9654 −0.0110"
    assert found["integer_only_int8 quantization-aware training"][0] == "✓ blessed"


def test_what_is_over_a_limit_is_for_the_gate_to_say():
    """A latency above the limit by less than its uncertainty is not marked: the verdict did not count it either."""
    undecided = evaluation_records.record().model_copy(update={"budget": Budget(max_latency_ratio=0.4)})
    assert rows(render_page(undecided), "variants")[WINNER][3] == "0.41× this machine, not a phone"
    first, *others = undecided.verdicts
    reason = Reason(code="budget", message="too slow", value=1.0, limit="<= 0.4")
    judged = undecided.model_copy(update={"verdicts": (first.model_copy(update={"reasons": (reason,)}), *others)})
    assert rows(render_page(judged), "variants")["float32"][3].startswith("✕ 1.00×")


def test_very_many_metrics_are_not_all_told_apart(record):
    metrics = {f"metric_{index}": MetricError(conversion=0.0, quantization=0.1) for index in range(9)}
    table = SliceMetrics(slice="overall", metrics=dict.fromkeys(metrics, 0.5))
    many = record.model_copy(
        update={
            "models": tuple(model.model_copy(update={"slices": (table,)}) for model in record.models),
            "error_splits": (ErrorSplit(variant=WINNER, metrics=metrics),),
        }
    )
    text = section(render_page(many), "errors")
    assert "metric_5" in text
    assert "metric_6" not in text
    assert "The first 6 of 9 metrics; all are in record.json ." in text


def test_rows_from_quantization_aware_training_are_marked(page, refused):
    assert "quantization-aware" not in refused
    assert page.count("<small>quantization-aware training</small>") == 1
    assert "it holds the further training too" in section(page, "errors")


def test_compression_is_shown_for_weights_that_are_described(page, refused):
    assert rows(page, "compression") == {WINNER: ["78.5 kB", "39.2 kB", "72,000", "70 %", "16"]}
    assert 'id="compression"' not in refused


def test_changes_are_in_words_beside_the_plot(page):
    overall, worst, *_ = rows(page, "changes").items()
    assert overall == ("overall", ["425", "", "−0.0022 [−0.0086, +0.0042]", "≥ −0.0600", "✓ pass"])
    assert worst[0] == "label:8"
    assert worst[1][2:] == ["−0.0088 [−0.0712, +0.0317]", "≥ −0.0600", "? insufficient data needs about 90 examples"]
    text = section(page, "changes")
    assert "against the model in production" in text
    assert "integer_only_uint8 ✕ 21 fail ? 1 insufficient data" in text
    assert "Tango's score interval for paired shares and paired bootstrap" in text
    assert "95 % interval" in text


def test_a_forest_puts_everything_where_it_belongs():
    limit = {"gate": "change_threshold", "limit": -0.02, "higher_is_better": True}
    entries = [
        change(lower=-0.03, upper=0.01, outcome="insufficient_data", **limit),
        change(slice="a", change=0.0, lower=-0.01, upper=0.01, outcome="pass", **limit),
        change(slice="b", change=-0.5, lower=-0.6, upper=-0.4, outcome="fail", **limit),
        change(slice="c", change=None, outcome="fail", **limit),
    ]
    record = evaluation_records.record().model_copy(update={"changes": tuple(entries)})
    ((plot,),) = [each.forests for each in forest.make_changes(record)]
    assert [row.change.slice for row in plot.rows] == ["overall", "c", "b", "a"]
    overall, none, beyond, passing = plot.rows
    assert overall.lower < overall.limit_x < overall.x < plot.zero < overall.upper
    assert overall.bad == (0.0, overall.limit_x)
    assert passing.x == plot.zero
    assert beyond.beyond == -1
    assert beyond.x == 0
    assert none.x is None
    assert none.text == "not finite"
    ticks = dict(plot.ticks[::-1])
    assert ticks[plot.zero] == "0"


def test_what_the_statistics_leave_open_is_said():
    limit = {"gate": "change_threshold", "limit": -0.02, "higher_is_better": True}
    wider = {"gate": "worst_slice", "limit": 0.1, "higher_is_better": True, "outcome": "pass", "level": 0.995}
    entries = [change(num_examples=None, **limit), change(slice="a", lower=-0.04, upper=0.02, **wider)]
    page = render_page(evaluation_records.record().model_copy(update={"changes": tuple(entries)}))
    found = rows(page, "changes")
    assert found["overall"] == ["", "", "−0.0100", "≥ −0.0200", "the change decides"]
    assert found["a"][2] == "−0.0100 [−0.0400, +0.0200] at 99.50 %"
    assert found["a"][3] == "≥ −0.1000 (worst slice)"


def test_of_a_metric_that_must_not_grow_the_right_is_bad_and_the_largest_is_worst():
    limit = {"gate": "change_threshold", "limit": 0.02, "higher_is_better": False, "outcome": "pass"}
    entries = [change(slice="a", change=-0.01, **limit), change(slice="b", change=0.015, **limit)]
    record = evaluation_records.record().model_copy(update={"changes": tuple(entries)})
    ((plot,),) = [each.forests for each in forest.make_changes(record)]
    assert [row.change.slice for row in plot.rows] == ["b", "a"]
    assert plot.rows[0].limit == "≤ +0.0200"
    left, width = plot.rows[0].bad
    assert left == plot.rows[0].limit_x
    assert left + width == pytest.approx(100)


def test_a_worst_slice_limit_is_on_the_side_of_the_worse():
    for higher_is_better, expected in ((True, -0.05), (False, 0.05)):
        entry = change(gate="worst_slice", limit=0.05, higher_is_better=higher_is_better, outcome="pass")
        assert forest.bound(entry) == expected
        assert forest.limit_in_words(entry).endswith("(worst slice)")


def test_the_winner_unfolds_first_and_else_who_fails(record):
    assert [each.variant for each in forest.make_changes(record) if each.open] == [WINNER]
    refused = evaluation_records.record(winner=None)
    assert [each.variant for each in forest.make_changes(refused) if each.open] == ["integer_only_uint8"]


def test_the_plot_shows_each_scored_variant_at_its_size_and_quality(record):
    plot = pareto.make_plot(record)
    points = {point.name: point for point in plot.points}
    assert set(points) == {model.model for model in record.models[1:-1]}
    assert plot.metric == ACCURACY
    assert points["float32"].x > points["float16"].x > points[WINNER].x
    assert points["float32"].y < points[WINNER].y < points["integer_only_uint8"].y  # downwards
    assert [point.name for point in plot.points if point.winner] == [WINNER]
    assert {point.name for point in plot.points if point.on_front} == {
        cost.variant for cost in record.costs if cost.on_pareto_front
    }
    assert len(plot.front) == 4
    for point in plot.points:
        assert plot.left <= point.x <= plot.width
        assert plot.top <= point.y <= plot.height - plot.bottom
    labels = sorted((point.label_y, point.label_x) for point in plot.points)
    assert len(set(labels)) == len(labels)


def test_the_plot_has_the_limits_of_size_and_of_change(record):
    plot = pareto.make_plot(record)
    points = {point.name: point for point in plot.points}
    x, text = plot.size_limit
    assert text == "budget 200 kB"
    assert points["float16"].x < x < points["float32"].x
    levels = {level.text: level for level in plot.levels}
    assert levels["float model"].y == points["float32"].y
    limit = levels["limit against float model"]
    assert points["dynamic_range"].y < limit.y < points["integer_only_uint8"].y
    assert limit.y < levels["limit against production"].y  # production is worse, so its limit is lower
    assert plot.bad[0] == limit.y
    # Without a change threshold over all examples there is no line.
    unlimited = record.model_copy(update={"changes": ()})
    assert [level.kind for level in pareto.make_plot(unlimited).levels] == ["baseline", "production"]
    assert "more is better" not in section(render_page(unlimited), "pareto")
    assert f"{ACCURACY}, more is better" in section(render_page(record), "pareto")


def test_a_size_limit_far_away_does_not_squeeze_the_plot(record):
    far = record.model_copy(update={"budget": Budget(max_size_bytes=50_000_000)})
    assert pareto.make_plot(far).size_limit is None


def test_the_plot_of_a_phone_is_narrow_and_names_the_winner(record):
    narrow = pareto.make_plot(record, pareto.NARROW)
    assert narrow.width == pareto.NARROW
    assert next(point.label for point in narrow.points if point.winner) == WINNER


def test_layers_are_bars_in_order_and_the_worst_are_named(refused):
    text = section(refused, "layers")
    assert "The float model cannot be converted with debugging operators." in text
    worst = list(rows(refused, "layers"))
    assert worst[0] == "1 · model/block_5/depthwise_conv_2d_21/Relu"
    assert len(worst) == 5
    assert ";" not in worst[0]  # what the converter fused into it is left out


def test_a_strip_is_as_tall_and_hot_as_its_layer_is_bad():
    def layer(index, rmse):
        return LayerError(
            name=f"l{index}", op="ADD", index=index, rmse_over_scale=rmse, mean_squared_error=0, max_absolute_error=0
        )

    errors = LayerErrors(variant="v", num_examples=3, layers=(layer(0, 0.0), layer(1, 0.289), layer(2, 5.0)))
    (strip,) = strips.make_strips(evaluation_records.record().model_copy(update={"layer_errors": (errors,)}))
    assert [bar.heat for bar in strip.bars] == [0, 0, 4]
    assert [bar.rank for bar in strip.bars] == [3, 2, 1]
    assert strip.bars[0].height == 0
    assert strip.bars[1].height == pytest.approx(strip.rounding, abs=0.01)
    assert strip.bars[2].height == 1
    assert strip.bars[-1].left + strip.bars[-1].width == pytest.approx(100, abs=0.1)
    assert "l2 5" in strip.description


def test_a_layer_that_drowns_its_signal_is_named_though_its_steps_are_few():
    def layer(index, relative):
        values = {"rmse_over_scale": 1 + index / 10, "mean_squared_error": 0, "max_absolute_error": 0}
        return LayerError(name=f"l{index}", op="ADD", index=index, relative_error=relative, **values)

    errors = LayerErrors(variant="v", num_examples=3, layers=tuple(layer(i, 0.9 if i == 1 else 0.01) for i in range(9)))
    record = evaluation_records.record().model_copy(update={"layer_errors": (errors,)})
    (strip,) = strips.make_strips(record)
    assert [each.name for each in strip.worst] == ["l8", "l7", "l6", "l5", "l4", "l1", "l0"]
    found = rows(render_page(record), "layers")
    assert found["6 · l1"][:3] == ["1 ADD", "1.1", "0.9"]


def test_compatibility_has_a_word_per_cell_and_says_what_was_found(page, record):
    found = rows(page, "compatibility")
    assert found["float32"] == ["✓ pass", "? not verified", "✕ fail"]
    assert found["float16"] == ["✓ pass", "? not verified", "? not verified"]
    text = section(page, "compatibility")
    assert "litert>=2.14.0 required" in text
    assert "has fixed shapes Found: the batch size is open" in text
    assert "Variants: all." in text
    matrix = compatibility.make_matrix(record)
    assert [remark.rule.result for remark in matrix.remarks] == ["fail", "not_verified", "not_verified"]


def test_latency_is_never_taken_for_a_phones(page, record):
    text = section(page, "latency")
    assert "the reference timed against itself in the same run gave 1.02×" in text
    assert "this machine, not a phone a desktop CPU, 1 thread" in text
    assert "device: Pixel 8, CPU, 1 thread" in text
    assert "Measured on this machine, not on a phone" in text
    nothing = LatencyRecord(reference="float32", measurable=False, control=1.4, message="The control was off.")
    text = section(render_page(record.model_copy(update={"latency": nothing})), "latency")
    assert "? not measurable here The control was off." in text
    assert "not on a phone" not in text


def test_the_slowest_device_counts(record):
    def on(device, ratio):
        return LatencyResult(variant="float16", ratio=ratio, milliseconds=1.0, source="device", device=device)

    latency = record.latency.model_copy(update={"results": (on("slow", 1.3), on("fast", 0.7))})
    assert rows(render_page(record.model_copy(update={"latency": latency})), "variants")["float16"][3] == "1.30× slow"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("compared", "✓ compared"),
        ("no_release", "Nothing was released there yet"),
        ("not_comparable", "✕ not comparable"),
        ("damaged", "✕ damaged"),
    ],
)
def test_the_second_baseline_says_what_it_is(record, status, expected):
    production = record.production.model_copy(update={"status": status, "message": "It says so."})
    text = section(render_page(record.model_copy(update={"production": production})), "production")
    assert expected in text
    assert "It says so." in text
    for value in (production.address, production.release_id, production.sha256, "version 7"):
        assert value in text


def test_the_gate_and_the_origin_are_on_the_page(page, record):
    gates = section(page, "gates")
    assert "File size at most 200 kB" in gates
    assert "Smallest slice that gates 20 examples" in gates
    assert f"Worst slice, {ACCURACY} at most 0.1000 worse on any slice" in gates
    assert "the measured change decides, with a caution" in gates
    origin = section(page, "origin")
    assert record.source_sha256 in origin
    assert all(verdict.sha256 in origin for verdict in record.verdicts if verdict.sha256)
    assert "tensorflow-model-analysis 0.47.1" in origin
    assert "TensorFlow Lite" not in gates
    strict = record.model_copy(
        update={"budget": Budget(max_min_runtime="2.14.0"), "confidence": Confidence(undecided="block")}
    )
    gates = section(render_page(strict), "gates")
    assert "Where the data do not decide the variant is not blessed" in gates
    assert "TensorFlow Lite 2.14.0" in gates


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("changes", {"changes": ()}),
        ("production", {"production": None}),
        ("layers", {"layer_errors": ()}),
        ("fidelity", {"fidelity": ()}),
        ("errors", {"error_splits": None}),
        ("latency", {"latency": None}),
    ],
)
def test_a_section_without_data_is_not_there(record, name, absent):
    page = render_page(record.model_copy(update=absent))
    expected = [section for section in SECTIONS if section != name]
    assert re.findall(r'<section id="(\w+)"', page) == expected
    assert f'href="#{name}"' not in page


def test_where_nothing_was_scored_little_is_left():
    page = render_page(evaluation_records.bare())
    assert re.findall(r'<section id="(\w+)"', page) == ["verdicts", "variants", "gates", "origin"]
    assert "<svg" not in page
    assert rows(page, "variants")["saved_model float model"][-1] == "not finite"


def test_too_much_of_everything_is_cut_and_says_so():
    record = evaluation_records.crowded()
    page = render_page(record)
    assert len(page) < 2_500_000
    assert page.count("more slices, none of them worse; all are in <code>record.json</code>") == 40
    assert "of 120 slices; all are in <code>record.json</code>" in page
    assert page.count('role="rowheader"') < 1400
    for plot in (pareto.make_plot(record), pareto.make_plot(record, pareto.NARROW)):
        labelled = [point for point in plot.points if point.label]
        assert next(point for point in plot.points if point.winner).label
        assert 1 <= len(labelled) < len(plot.points) == 40
        assert all(len(point.label) <= 26 for point in labelled)


_FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | _FLOATS, min_size=3, max_size=3), st.lists(st.none() | _FLOATS, min_size=4, max_size=4))
@example([0.1 + 0.2, 0.3, 0.3], [1e-17, None, None, None])
@example([0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
@example([3e38, -3e38, None], [-3e38, 3e38, 3e38, 1e-45])
def test_any_numbers_make_a_page_with_everything_inside_its_plots(values, ends):
    record = evaluation_records.crowded(2, 0)
    models = [
        model.model_copy(update={"slices": (SliceMetrics(slice="overall", metrics={ACCURACY: value}),)})
        for model, value in zip(record.models, values, strict=True)
    ]
    moved, lower, upper, limit = ends
    name = record.variants[1].name
    entry = change(variant=name, change=moved, lower=lower, upper=upper, limit=limit, gate="change_threshold")
    record = record.model_copy(
        update={"models": tuple(models), "changes": (entry.model_copy(update={"higher_is_better": True}),)}
    )
    assert "</html>" in render_page(record)
    assert "## Provenance" in render_card(record)
    if (plot := pareto.make_plot(record)) is not None:
        assert len(plot.y_ticks) < 12
        assert all(plot.top <= point.y <= plot.height - plot.bottom for point in plot.points)
    ((plot,),) = [each.forests for each in forest.make_changes(record)]
    assert all(x is None or 0 <= x <= 100 for row in plot.rows for x in (row.x, row.lower, row.upper, row.limit_x))


def test_what_came_from_outside_is_escaped_and_visible():
    evil = "<script>alert('x')</script>\N{RIGHT-TO-LEFT OVERRIDE}\x00\"><b>"
    page = render_page(evaluation_records.crowded(3, 4, name=evil))
    assert "<script" not in page
    assert '"><b>' not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert "\x00" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert r"\u202e\u0000" in page


def test_the_page_needs_nothing_but_itself_and_runs_nothing(page):
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|javascript:|\son\w+=|src=", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)', page))
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert '<html lang="en">' in page
    assert '<meta name="viewport" content="width=device-width' in page


def test_the_page_is_well_formed(page):
    class Checker(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open_tags = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "wbr"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

        def handle_startendtag(self, tag, attrs):
            pass

    checker = Checker()
    checker.feed(page)
    assert checker.open_tags == []
    pictures = re.findall(r'<svg[^>]*role="img".*?</svg>', page, re.DOTALL)
    assert len(pictures) == 3  # the plot at two widths, and a strip
    for svg in pictures:
        assert ElementTree.fromstring(svg).get("aria-label")


def test_equal_records_give_equal_pages(page, record):
    assert page == render_page(EvaluationRecord.from_json(record.to_json()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.format_bytes(999), "999 B"),
        (formatting.format_bytes(38_000), "38.0 kB"),
        (formatting.format_bytes(292_340), "292 kB"),
        (formatting.format_bytes(4_560_000), "4.56 MB"),
        (formatting.format_number(None), "not finite"),
        (formatting.format_number(20_000.0), "20,000"),
        (formatting.format_number(0.93164), "0.9316"),
        (formatting.format_number(1.0), "1.0000"),
        (formatting.format_number(-3.2e-9), "−3.2e−09"),
        (formatting.format_number(7.5e30), "7.5e+30"),
        (formatting.format_number(0.0), "0.0000"),
        (formatting.format_change(-0.0123), "−0.0123"),
        (formatting.format_change(0.00001), "±0"),
        (formatting.format_change(None), "not finite"),
        (formatting.format_interval(None, 0.1), ""),
        (formatting.format_share(1.0), "100 %"),
        (formatting.format_share(0.999999), "> 99.99 %"),
        (formatting.format_share(0.95), "95 %"),
        (formatting.format_share(0.0001), "< 0.1 %"),
        (formatting.format_share(0.0), "0 %"),
        (formatting.format_milliseconds(0.0074), "7.4 µs"),
        (formatting.format_milliseconds(3.14159), "3.14 ms"),
        (formatting.format_milliseconds(2500), "2.5 s"),
        (formatting.plural(1, "slice"), "1 slice"),
        (formatting.listed(["a", "b", "c"]), "a, b and c"),
        (formatting.listed(["a"]), "a"),
        (formatting.shortened("abcdefghijklmnop", 10), "abcdef…nop"),
    ],
)
def test_numbers_are_short(text, expected):
    assert text == expected
