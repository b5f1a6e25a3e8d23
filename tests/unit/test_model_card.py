"""The model card: one page of Markdown, with nothing in it that Markdown would take for its own."""

import re

import pytest

from tests.fakes import evaluation_records
from tests.fakes.evaluation_records import ACCURACY
from tfx_mobile.quantization_evaluator.report import render_card
from tfx_mobile.records import EvaluationRecord, LatencyRecord, ProductionRecord

WINNER = "integer_only_int8"


@pytest.fixture(scope="module")
def record():
    return evaluation_records.record(trained=WINNER)


@pytest.fixture(scope="module")
def card(record):
    return render_card(record)


def table(card, heading):
    """The cells of the first table below a heading, by the first cell of the row."""
    body = card.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in rows}) <= 1, "a row has more or fewer cells than its header"
    return {row[0]: row[1:] for row in rows[2:]}


def test_it_says_what_the_model_is_and_why_this_one(card):
    title, _, summary, *_ = card.splitlines()
    assert title == f"# Model card: {WINNER}"
    assert "quantized as `integer_only` with int8 inputs and outputs" in summary
    assert "the best by size (60 %) and quality (40 %) of 4 variants that passed every gate, out of 7" in summary
    assert "425 examples of the split eval" in summary


def test_it_says_how_an_app_reads_and_writes_the_model(card):
    inputs = card.partition("## Inputs and outputs")[2].partition("\n## ")[0]
    assert "Signature serving_default:" in inputs
    assert "| input | image | int8 | any × 64 | (q + 128) × 0.00392156863 |" in inputs
    assert "| output | output_0 | int8 | any × 10 | (q + 128) × 0.00390625 |" in inputs
    plain = render_card(evaluation_records.record(winner="full_integer"))
    assert "| input | image | float32 | any × 64 | as stored |" in plain


def test_quality_is_given_against_the_float_model_with_intervals(card):
    quality = table(card, "Quality over all examples")
    assert quality[ACCURACY][:4] == ["0.9764", "0.9742", "−0.0022", "[−0.0086, +0.0042]"]
    assert quality[ACCURACY][4] == "≥ −0.0600: pass"
    assert "example_count" not in quality
    worst = table(card, "Worst slices")
    assert next(iter(worst)) == "label:8"
    assert worst["label:8"][4] == "≥ −0.0600: insufficient data, needs about 90 examples"
    assert "95 % interval" in card


def test_cost_and_compatibility_are_labelled(card):
    cost = table(card, "Cost")
    assert cost["Size"] == ["78.5 kB"]
    assert cost["Size after gzip"] == ["39.2 kB"]
    assert cost["Latency against float32"] == ["0.41×, 7.38 µs (this machine, not a phone)"]
    assert cost["Peak memory, loading and running it once"] == ["9.26 MB"]
    assert table(card, "Compatibility")["litert_js"][0] == "not verified"


def test_caveats_hold_the_cautions_and_what_nobody_measured(card, record):
    caveats = card.partition("## Caveats")[2].partition("\n## ")[0]
    (caution,) = record.verdict(WINNER).cautions
    assert caution.message.replace(">", r"\>") in caveats
    assert "not on a phone" in caveats
    assert "Not verified: litert_js and mediapipe_image_classifier." in caveats
    assert "licence are not known to the evaluation" in caveats
    off = LatencyRecord(reference="float32", measurable=False, message="The control was off.")
    assert "Latency could not be measured: The control was off." in render_card(
        record.model_copy(update={"latency": off})
    )


def test_provenance_has_the_hashes_and_versions(card, record):
    provenance = table(card, "Provenance")
    assert provenance["This file"] == [f"sha256 `{record.verdict(WINNER).sha256}`"]
    assert provenance["Float model"] == [f"sha256 `{record.source_sha256}`"]
    assert provenance["Ranges of activations from"] == ["training"]
    assert provenance["tensorflow-model-analysis"] == ["0.47.1"]
    assert provenance["Model in production"] == [f"digits, channel production, release `{'a' * 64}`: compared"]
    new = ProductionRecord(address="x", model_name="digits", channel="beta", status="no_release")
    assert "digits, channel beta: nothing released yet" in render_card(record.model_copy(update={"production": new}))


def test_without_a_winner_it_says_why_not():
    record = evaluation_records.record(winner=None)
    card = render_card(record)
    assert card.startswith("# No model was blessed\n\nNo variant of 7 passed every gate")
    for verdict in record.verdicts:
        assert f"* **{verdict.variant}**: " in card
    assert "And 6 more." in card
    assert "## Quality" not in card
    assert record.source_sha256 in card


def test_what_is_absent_leaves_no_empty_heading():
    card = render_card(evaluation_records.crowded(3, 0))
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == [
        "Inputs and outputs",
        "Quality over all examples",
        "Cost",
        "Caveats",
        "Provenance",
    ]
    assert "Peak memory" not in card


@pytest.mark.parametrize(
    ("evil", "expected"),
    [
        ("a|b", r"a\|b"),
        ("<script>x</script>", r"\<script\>x\</script\>"),
        ("[x](javascript:y)", r"\[x\](javascript:y)"),
        ("two\nlines\r\n# of", r"two lines \# of"),
        ("_em_ **bold** a_b", r"\_em\_ \*\*bold\*\* a_b"),
        ("`code` $x$", r"\`code\` \$x\$"),
        ("https://evil.example", r"https\://evil.example"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}x", r"\\u202ex"),
    ],
)
def test_what_came_from_outside_means_nothing_to_markdown(evil, expected):
    record = evaluation_records.crowded(2, 3, name=evil)
    card = render_card(record)
    assert f"{expected}:0" in card
    assert len(table(card, "Worst slices")) == 3


def test_it_stays_one_page():
    assert render_card(evaluation_records.crowded()).count("\n") < 60
    refused = evaluation_records.record(winner=None)
    assert render_card(refused).count("\n") < 60


def test_equal_records_give_equal_cards(card, record):
    assert card == render_card(EvaluationRecord.from_json(record.to_json()))
