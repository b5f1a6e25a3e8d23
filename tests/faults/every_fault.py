"""Every request of an act meets every fault."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from tests.fakes.http_server import FAULTS, FakeServer, Fault
from tfx_mobile.errors import TFXMobileError


class Scenario(Protocol):
    """A fake service in some state, and an act that is to be carried out on it."""

    server: FakeServer

    def act(self) -> object:
        """Does it, as a fresh process would."""

    def check_always(self) -> None:
        """What has to hold at any time: no channel points to bytes that are not there, nothing published is lost."""

    def check_done(self) -> None:
        """What has to hold once the act has succeeded: it had exactly one effect."""


def survive_every_fault(
    scenario: Callable[[], AbstractContextManager[Scenario]],
    record_property: Callable[[str, object], None],
    faults: tuple[Fault, ...] = FAULTS,
) -> int:
    """Acts once per request and fault; each act ends well or in a typed error, and a second one finishes it.

    The number of cases goes to the end of pytest's output.
    """
    with scenario() as undisturbed:
        before = undisturbed.server.num_requests
        undisturbed.act()
        num_requests = undisturbed.server.num_requests - before
        undisturbed.check_done()
    cases = 0
    for number in range(num_requests):
        for fault in faults:
            with scenario() as disturbed:
                first = disturbed.server.num_requests
                disturbed.server.fail(first + number, fault)
                story = f"request {number + 1} of {num_requests}, {fault}"
                with contextlib.suppress(TFXMobileError):
                    disturbed.act()
                    disturbed.check_done()
                assert disturbed.server.num_requests > first + number, f"{story}: the fault was never met"
                try:
                    disturbed.check_always()
                    disturbed.act()
                    disturbed.check_always()
                    disturbed.check_done()
                except Exception as error:
                    raise AssertionError(f"{story}: {error}") from error
                cases += 1
    record_property("fault_cases", cases)
    return cases
