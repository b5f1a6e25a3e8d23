"""Whatever happens to a request of a rollout: Remote Config says one thing or the other, and again makes it right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.http_server import FAULTS
from tests.fakes.remote_config import PROJECT, RemoteConfigFake
from tests.faults.every_fault import survive_every_fault
from tfx_mobile import RemoteConfigRollout
from tfx_mobile.google_rest import Patience
from tfx_mobile.rollout.remote_config import ENDPOINT_VARIABLE, RolloutResult, apply

MODEL, CHANNEL, PARAMETER = "digits", "canary", "mlmodel_digits"
CONDITION = "mobilepusher_digits_canary"
PATIENCE = Patience(connect_seconds=0.2, read_seconds=0.1, total_seconds=3, first_wait_seconds=0.001)

FOREIGN = r"""{
  "conditions": [
    {"name": "ios", "expression": "device.os \u003d\u003d 'ios'"}
  ],
  "parameters": {
    "speed": {"defaultValue": {"value": "1.50"}, "conditionalValues": {"ios": {"rolloutValue": {"percent": 1E+2}}}}
  },
  "later": 12345678901234567890123
}"""


class Rollout:
    """A project in which somebody already rolled out to some share, and now to another."""

    def __init__(self, server: RemoteConfigFake, percent: float, allowed: set[float], dry_run: bool) -> None:
        self.server = server
        self.percent = percent
        self.allowed = allowed
        self.dry_run = dry_run
        self.version = server.version
        self.foreign = self._foreign()

    def act(self) -> RolloutResult:
        return _apply(self.percent, self.dry_run)

    def check_always(self) -> None:
        self.server.check(self.server.text)
        assert self._foreign() == self.foreign
        assert [line for line in FOREIGN.splitlines() if line not in self.server.text] == []
        assert self._percent() in self.allowed
        assert not self.server.violations

    def check_done(self) -> None:
        if self.dry_run:
            assert self.server.version == self.version
            assert self.server.num_writes == (1 if self.version == 2 else 0)
            return
        assert self._percent() == self.percent
        # A write whose answer was lost is not repeated, and one that was not carried out is.
        changes = 0 if self.allowed == {self.percent} and self.version == 2 else 1
        assert self.server.version == self.version + changes

    def _percent(self) -> float:
        """By hand, not by the code under test."""
        template = self.server.template
        for condition in template["conditions"]:
            if condition["name"] == CONDITION:
                asked = template["parameters"][PARAMETER]["conditionalValues"][CONDITION]
                assert json.loads(asked["value"]) == {"channel": CHANNEL}
                return float(condition["expression"].removeprefix("percent('digits_canary') <= "))
        assert CONDITION not in self.server.text
        return 0.0

    def _foreign(self) -> Any:
        template = self.server.template
        template.pop("version")
        template["parameters"].pop(PARAMETER, None)
        template["conditions"] = [one for one in template["conditions"] if one["name"] != CONDITION]
        return template


def _apply(percent: float, dry_run: bool = False) -> RolloutResult:
    return apply(RemoteConfigRollout(project_id=PROJECT, percent=percent), MODEL, CHANNEL, dry_run, patience=PATIENCE)


def project(before: float | None, percent: float, dry_run: bool, mismatch_status: int) -> Callable[[], Any]:
    @contextmanager
    def scenario() -> Iterator[Rollout]:
        with RemoteConfigFake(FOREIGN, mismatch_status=mismatch_status) as server:
            os.environ[ENDPOINT_VARIABLE] = server.endpoint
            if before is not None:
                _apply(before)
            allowed = {before or 0.0} if dry_run else {before or 0.0, percent}
            yield Rollout(server, percent, allowed, dry_run)

    return scenario


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:1")  # put back afterwards, whatever a scenario sets


@pytest.mark.parametrize(
    ("before", "percent", "dry_run", "mismatch_status"),
    [
        pytest.param(None, 1, False, 412, id="first rollout"),
        pytest.param(1, 10, False, 409, id="more of the users"),
        pytest.param(10, 0, False, 412, id="everyone back"),
        pytest.param(10, 10, False, 412, id="unchanged"),
        pytest.param(None, 1, True, 412, id="dry run"),
        pytest.param(10, 50, True, 409, id="dry run of more"),
    ],
)
def test_every_request_survives_every_fault(
    before: float | None,
    percent: float,
    dry_run: bool,
    mismatch_status: int,
    record_property: Callable[[str, object], None],
) -> None:
    num_requests = 2 if dry_run else 1 if before == percent else 3
    cases = survive_every_fault(project(before, percent, dry_run, mismatch_status), record_property)
    assert cases == num_requests * len(FAULTS)


def test_a_write_that_was_carried_out_and_not_answered_is_known_as_ours(
    record_property: Callable[[str, object], None],
) -> None:
    cases = 0
    for fault in FAULTS:
        if not fault.after:
            continue
        with project(1, 10, False, 412)() as scenario:
            scenario.server.fail(scenario.server.num_requests + 1, fault)
            assert scenario.act().status == "changed"
            scenario.check_done()
            cases += 1
    record_property("fault_cases", cases)
