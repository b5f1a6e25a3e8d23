"""Retrains that number their data, race, come late, are refused, and die: real components, every run a process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.lineage import NodeRun, latest_run
from tests.fakes.retrainer import COMPONENTS, Retrainer, retrainer
from tests.fakes.retraining import MODEL, SPANS, VERSIONS, write_day
from tfx_mobile import FilesystemDestination
from tfx_mobile.artifacts import BLESSING_FILE
from tfx_mobile.errors import NothingPublishedError
from tfx_mobile.records import ChannelStatement, EvaluationRecord
from tfx_mobile.release_store import reading

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # TFX and Beam warn on every run

PUSHER = "MobilePusher"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with retrainer(tmp_path) as opened:
        yield Place(tmp_path, opened)


class Place:
    """Examples, releases, and somebody who retrains."""

    def __init__(self, folder: Path, opened: Retrainer) -> None:
        self.folder, self.retrainer = folder, opened
        self.examples = folder / "examples"
        self.store = FilesystemDestination(base_directory=folder / "releases").open_store()

    def release(self) -> reading.Release:
        return reading.resolve(self.store, MODEL, "production")

    def statement(self) -> ChannelStatement:
        statement = reading.current_statement(self.store, MODEL, "production")
        assert statement is not None
        return statement

    def history(self) -> list[tuple[int, str, int | None]]:
        """Version, act and span, oldest first."""
        entries = self.statement().history[::-1]
        manifests = [reading.read_manifest(self.store, MODEL, entry.release_id) for entry in entries]
        return [
            (entry.version, entry.action, manifest.lineage.examples[0].span if manifest.lineage else None)
            for entry, manifest in zip(entries, manifests, strict=True)
        ]

    def latest(self, node: str, home: str = "home") -> NodeRun:
        return latest_run(self.folder / home / "metadata.sqlite", MODEL, node)

    def push_status(self, home: str = "home") -> str:
        value: str = self.latest(PUSHER, home).outputs["pushed_model"].custom_properties["push_status"].string_value
        return value


def numbers(origin: Any) -> tuple[int | None, int | None]:
    return origin.span, origin.version


# --- spans and versions -----------------------------------------------------------------------------------------------


def write_spans(examples: Path) -> None:
    """Two spans. The highest version is one of the older, whose name also sorts last as a text."""
    for span, version in ((9, 1), (9, 3), (10, 1), (10, 2)):
        write_day(examples / f"span-{span}" / f"version-{version}", span)


def test_the_newest_span_and_version_reach_the_channel(place: Place) -> None:
    write_spans(place.examples)
    run = place.retrainer.run(pattern=VERSIONS)
    assert run.succeeded, run.error
    examples = place.latest("ImportExampleGen").outputs["examples"]
    assert [examples.custom_properties[name].int_value for name in ("span", "version")] == [10, 2]
    record = EvaluationRecord.read(Path(place.latest("QuantizationEvaluator").outputs["blessing"].uri) / BLESSING_FILE)
    manifest, order = place.release().manifest, place.statement().order
    assert record.lineage is not None
    assert manifest.lineage == record.lineage
    assert order is not None
    assert [numbers(one) for one in (record.lineage.examples[0], order)] == [(10, 2)] * 2

    # The same without versions, from the files of one of them: a newer span.
    write_day(place.examples / "span-11", 11)
    run = place.retrainer.run(pattern=SPANS)
    assert run.succeeded, run.error
    assert place.history() == [(1, "publish", 10), (2, "publish", 11)]
    order = place.statement().order
    assert order is not None
    assert numbers(order) == (11, None)


def test_as_kubeflow_runs_it_spans_arrive_and_a_regression_is_refused_and_told(place: Place) -> None:
    pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
    write_spans(place.examples)
    alerts = place.folder / "alerts"
    handler = {"alerts_dir": str(alerts)}
    run = place.retrainer.run(pattern=VERSIONS, kubeflow=handler)
    assert run.succeeded, run.error
    tasks = run.result["tasks"]
    assert {name: task["state"] for name, task in tasks.items()} == dict.fromkeys(COMPONENTS, "SUCCEEDED")
    assert not alerts.exists()
    manifest, order = place.release().manifest, place.statement().order
    assert manifest.lineage is not None
    assert order is not None
    assert [numbers(one) for one in (manifest.lineage.examples[0], order)] == [(10, 2)] * 2
    assert order.created_ms is None  # only spans count there

    # Tomorrow's labels are wrong.
    write_day(place.examples / "span-11" / "version-1", 11, wrong_labels=0.6)
    run = place.retrainer.run(pattern=VERSIONS, kubeflow=handler)
    assert run.succeeded, run.error  # the runner's own process; what the job came to is in its result
    tasks = run.result["tasks"]
    assert {name: task["state"] for name, task in tasks.items()} == {
        **dict.fromkeys(COMPONENTS, "SUCCEEDED"),
        PUSHER: "FAILED",
    }
    assert tasks["QuantizationEvaluator"]["outputs"]["blessing"]["metadata"]["blessed"] == 0
    assert run.result["exit_handler"] == "SUCCEEDED"
    (alert,) = [json.loads(path.read_text()) for path in alerts.iterdir()]
    assert (alert["severity"], alert["state"]) == ("ERROR", "FAILED")
    assert f"{PUSHER}: exit code 1" in alert["message"]
    log = Path(tasks[PUSHER]["log"])
    assert "NotBlessedError: Nothing was pushed to channel 'production'" in log.read_text()
    (reason,) = json.loads((log.parent / "pushed_model" / "reasons.json").read_text())
    assert "worse than that of the model in production" in reason
    assert place.history() == [(1, "publish", 10)]


# --- at the same time, and too late -----------------------------------------------------------------------------------


def test_of_two_retrains_that_race_the_newer_data_win(place: Place) -> None:
    for span in (1, 2):
        write_day(place.examples / f"span-{span}", span)
    go = place.folder / "go"
    numbers_of = {
        span: place.retrainer.start(span=span, home=f"machine-{span}", wait_for=(PUSHER, go)) for span in (1, 2)
    }
    place.retrainer.wait_until_executing(PUSHER, 2)
    go.touch()
    for number in numbers_of.values():
        run = place.retrainer.wait(number)
        assert run.succeeded, run.error
    assert place.push_status("machine-2") == "pushed"
    late = place.push_status("machine-1")
    spans = [span for _, _, span in place.history()]
    assert (late, spans) in (("pushed", [1, 2]), ("superseded", [2]))
    assert [version for version, _, _ in place.history()] == list(range(1, len(spans) + 1))


def test_a_slow_old_run_that_ends_last_is_superseded(place: Place) -> None:
    """Of the same span, whose data were delivered again while the first run was under way."""
    write_day(place.examples / "span-1" / "version-1", 1, wrong_labels=0.05)
    go = place.folder / "go"
    slow = place.retrainer.start(pattern=VERSIONS, home="slow", wait_for=(PUSHER, go))
    place.retrainer.wait_until_executing(PUSHER, 1)
    write_day(place.examples / "span-1" / "version-2", 1)
    assert place.retrainer.run(pattern=VERSIONS, home="fast").succeeded
    released = place.release()
    go.touch()
    run = place.retrainer.wait(slow)
    assert run.succeeded, run.error
    assert (place.push_status("fast"), place.push_status("slow")) == ("pushed", "superseded")
    assert place.statement().version == 1
    assert place.release() == released
    order = place.statement().order
    assert order is not None
    assert numbers(order) == (1, 2)


# --- deaths -----------------------------------------------------------------------------------------------------------


def test_a_run_that_dies_in_each_component_is_taken_up_and_releases_once(place: Place) -> None:
    """Killed when all of a component's work is done and ML Metadata does not know of it."""
    write_day(place.examples / "span-1", 1)
    expected: list[str] = []
    for component in COMPONENTS:
        run = place.retrainer.run(die=(component, "after"))
        assert (run.exit_code, run.error) == (-9, "")
        # What was done before is served from the cache: only what died last time, and what dies now.
        expected += [*expected[-1:], component]
        assert place.retrainer.executed() == expected
        if component != PUSHER:
            with pytest.raises(NothingPublishedError):
                place.release()
    released = place.release()

    run = place.retrainer.run()
    assert run.succeeded, run.error
    # The pusher had moved the channel, so there is another model in production for the evaluator to compare with.
    assert place.retrainer.executed() == [*expected, "QuantizationEvaluator", PUSHER]
    assert place.push_status() == "unchanged"
    assert place.history() == [(1, "publish", 1)]
    assert place.release() == released
    assert len(list((place.folder / "releases").rglob("*.tflite"))) == 1

    # And again, with nothing to take up: everything is served from the cache.
    count = len(place.retrainer.executed())
    assert place.retrainer.run().succeeded
    assert place.retrainer.executed()[count:] == []
