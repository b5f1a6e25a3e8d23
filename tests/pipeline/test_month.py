"""A month of daily retrains: real components, real models, real ML Metadata, and every run a process of its own.

What is printed at the end, and copied to docs/retraining.md, is what happened.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("kfp", reason="The alerts' exit handler needs the extra kubeflow")

from pipelines import alerts
from pipelines.lineage import latest_run
from tests.fakes.retrainer import Retrainer, Run, retrainer
from tests.fakes.retraining import INPUT, MODEL, points, write_day
from tfx_mobile import FilesystemDestination
from tfx_mobile.artifacts import BLESSING_FILE
from tfx_mobile.cli import main
from tfx_mobile.records import EvaluationRecord
from tfx_mobile.release_store import reading
from tfx_mobile.tflite.runtime import SignatureRunner

pytestmark = pytest.mark.slow

DAYS = 30
DOCS = Path(__file__).parents[2] / "docs" / "retraining.md"
CANARY, PRODUCTION = "canary", "production"
PUSHER = "MobilePusher"

OTHER_UNIT, CRASH, ROLLBACK, WRONG_LABELS, OLD_SPAN, TO_CANARY = 9, 13, 16, 20, 22, 24

#: What production is to have named in the end: how it came there, and the day whose data made it.
HISTORY = [
    *(("publish", day) for day in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16)),
    ("rollback", 15),
    *(("publish", day) for day in (17, 18, 19, 21, 22, 23)),
    ("promote", 24),
    *(("publish", day) for day in (25, 26, 27, 28, 29, 30)),
]


@dataclass
class Month:
    """The team's cron job, its operator, and their diary."""

    folder: Path
    retrainer: Retrainer
    diary: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def releases(self) -> Path:
        return self.folder / "releases"

    def retrain(self, day: int, what: str, **options: Any) -> Run:
        """What the cron job does: a run, an alert if it failed, and a line in the diary."""
        before = len(self.retrainer.executed())
        run = self.retrainer.run(**options)
        if not run.succeeded:
            why = run.error or f"killed by signal {-run.exit_code}"
            alerts.report(f"day-{day}-run-{before}", "FAILED", why, str(self.folder / "alerts"))
        self.note(day, what, self._outcome(run, self.retrainer.executed()[before:]))
        return run

    def operate(self, day: int, what: str, *command: str) -> None:
        """What the operator types."""
        result = CliRunner().invoke(main, [*command, "--at", str(self.releases)])
        assert result.exit_code == 0, result.output
        self.note(day, f"operator: {what}", "done")

    def note(self, day: int, what: str, outcome: str) -> None:
        """A line in the diary, with what devices are served now."""
        store = FilesystemDestination(base_directory=self.releases).open_store()
        release = reading.resolve(store, MODEL, PRODUCTION)  # fails unless the bytes are those that were released
        serves = f"version {release.channel_version}, model of day {self.day_of(release.manifest)}"
        self.diary.append((str(day), what, outcome, serves))

    @staticmethod
    def day_of(manifest: Any) -> int:
        (examples,) = manifest.lineage.examples
        assert examples.span is not None
        return int(examples.span)

    def latest(self, node: str) -> Any:
        return latest_run(self.folder / "home" / "metadata.sqlite", MODEL, node)

    def _outcome(self, run: Run, executed: list[str]) -> str:
        if run.exit_code < 0:
            return f"killed in {executed[-1]}; alert"
        if run.succeeded:
            properties = self.latest(PUSHER).outputs["pushed_model"].custom_properties
            channel = properties["channel"].string_value
            where = "" if channel == PRODUCTION else f" to {channel}"
            return f"{properties['push_status'].string_value}{where}"
        kind = run.error.partition(":")[0]
        if kind != "NotBlessedError":
            return f"{kind}; alert"
        record = EvaluationRecord.read(
            Path(self.latest("QuantizationEvaluator").outputs["blessing"].uri) / BLESSING_FILE
        )
        (verdict,) = record.verdicts
        return f"refused ({', '.join(reason.code for reason in verdict.reasons)}); alert"

    def table(self) -> str:
        """The diary in Markdown; days on which nothing but the rule happened are drawn together."""
        lines: list[list[str]] = []
        for day, what, outcome, serves in self.diary:
            previous = lines[-1] if lines else None
            if previous and (what, outcome) == (previous[1], previous[2]) == ("retrain", "pushed"):
                previous[0] = f"{previous[0].split(' to ')[0]} to {day}"
                previous[3] = serves
            else:
                lines.append([day, what, outcome, serves])
        rows = [["day", "what", "outcome", "production then"], ["---"] * 4, *lines]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("month")
    with retrainer(folder) as opened:
        lived = Month(folder, opened)
        live(lived)
        yield lived


def live(month: Month) -> None:
    """Thirty days."""
    for day in range(1, DAYS + 1):
        if day == TO_CANARY + 1:
            month.operate(day, "promote canary", "promote", MODEL, "--from", CANARY)
        write_day(
            month.folder / "examples" / f"span-{day}",
            day,
            other_unit=day == OTHER_UNIT,
            wrong_labels=0.6 if day == WRONG_LABELS else 0,
        )
        SPECIAL.get(day, Month.retrain)(month, day, "retrain")


def other_unit(month: Month, day: int, what: str) -> None:
    month.retrain(day, f"{what}; a sensor reports in another unit")


def crash(month: Month, day: int, what: str) -> None:
    """The machine goes down at the worst moment: production was moved, and ML Metadata does not know."""
    month.retrain(day, what, die=(PUSHER, "after"))
    month.retrain(day, f"{what}, restarted")


def roll_back(month: Month, day: int, what: str) -> None:
    month.retrain(day, what)
    month.operate(day, "roll back", "rollback", MODEL)
    month.retrain(day, f"{what} of the same day again", labels={"attempt": "2"})


def wrong_labels(month: Month, day: int, what: str) -> None:
    month.retrain(day, f"{what}; the labels of the training examples are shifted")


def old_span(month: Month, day: int, what: str) -> None:
    month.retrain(day, what)
    month.retrain(day, f"{what} of span 12 again", span=12)


def to_canary(month: Month, day: int, what: str) -> None:
    month.retrain(day, f"{what}, for canary", channel=CANARY)


SPECIAL: dict[int, Callable[[Month, int, str], Any]] = {
    OTHER_UNIT: other_unit,
    CRASH: crash,
    ROLLBACK: roll_back,
    WRONG_LABELS: wrong_labels,
    OLD_SPAN: old_span,
    TO_CANARY: to_canary,
}


def outcome(month: Month, day: int) -> list[str]:
    return [line[2] for line in month.diary if line[0] == str(day)]


def test_the_history_of_production_is_exactly_right(
    month: Month, record_property: Callable[[str, object], None]
) -> None:
    shown = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["releases", MODEL, "--at", str(month.releases)]).output
    printed = f"A month of daily retrains\n\n{month.table()}\n\n$ tfx-mobile releases {MODEL}\n{shown}"
    print(printed)
    record_property("printed", printed)

    store = FilesystemDestination(base_directory=month.releases).open_store()
    statement = reading.current_statement(store, MODEL, PRODUCTION)
    assert statement is not None
    oldest_first = statement.history[::-1]
    released = {entry.release_id for entry in oldest_first}
    days = {one: Month.day_of(reading.read_manifest(store, MODEL, one)) for one in released}
    assert [(entry.action, days[entry.release_id]) for entry in oldest_first] == HISTORY
    assert [entry.version for entry in oldest_first] == list(range(1, len(HISTORY) + 1))
    assert statement.order is not None
    assert statement.order.span == DAYS
    # One release per day that was published, none for those that were refused, and none twice.
    assert len(list(month.releases.rglob("*.tflite"))) == len(set(days.values())) == DAYS - 2
    assert len(released) == len(list((month.releases / "releases").rglob("*.json")))
    rolled_back = next(entry for entry in oldest_first if days[entry.release_id] == ROLLBACK)
    assert statement.refused == (rolled_back.sha256,)
    assert "version 29" in shown


def test_bad_days_were_refused_and_told(month: Month) -> None:
    assert outcome(month, OTHER_UNIT) == ["refused (threshold, worse_than_production); alert"]
    assert outcome(month, WRONG_LABELS) == ["refused (worse_than_production); alert"]
    told = [json.loads(path.read_text()) for path in (month.folder / "alerts").iterdir()]
    assert len(told) == sum("alert" in line[2] for line in month.diary) == 4
    assert {alert["severity"] for alert in told} == {"ERROR"}
    (message,) = [alert["message"] for alert in told if f"day-{WRONG_LABELS}-" in alert["pipeline_job"]]
    assert "worse than that of the model in production" in message


def test_the_crash_released_once(month: Month) -> None:
    assert outcome(month, CRASH) == [f"killed in {PUSHER}; alert", "unchanged"]


def test_what_was_rolled_back_stays_away_and_what_is_old_comes_too_late(month: Month) -> None:
    assert outcome(month, ROLLBACK) == ["pushed", "done", "ReleaseRefusedError; alert"]
    assert outcome(month, OLD_SPAN) == ["pushed", "superseded"]


def test_without_retraining_phones_would_be_worse(month: Month) -> None:
    """The data drift: what was released on day 1 is of little use on day 30."""
    store = FilesystemDestination(base_directory=month.releases).open_store()
    statement = reading.current_statement(store, MODEL, PRODUCTION)
    assert statement is not None
    features, labels = points(DAYS, 400, seed=3)

    def accuracy(release_id: str) -> float:
        model = reading.read_blob(store, reading.read_manifest(store, MODEL, release_id))
        predicted = SignatureRunner(model).run({INPUT: features})["probabilities"].argmax(axis=1)
        return float((predicted == labels).mean())

    assert accuracy(statement.release_id) > accuracy(statement.history[-1].release_id) + 0.1


def test_the_documentation_shows_this_month(month: Month) -> None:
    assert month.table() in DOCS.read_text()
