"""Settings every test shares: quiet native code, one seed, no bytecode surprises, and no network but loopback."""

from __future__ import annotations

import os

import pytest

from tests import network

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

network.isolate()

_FAULT_CASES: list[int] = []
_PRINTED: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collects what `tests/faults/every_fault.py` counted and what tests print, also from pytest-xdist's workers."""
    if report.when == "call":
        _PRINTED.extend(str(value) for name, value in report.user_properties if name == "printed")
        _FAULT_CASES.extend(int(str(value)) for name, value in report.user_properties if name == "fault_cases")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the session for everything that wanted to reach another host, whatever became of the test."""
    if hasattr(session.config, "workerinput"):
        return  # the process that started the workers sees the refusals of all
    for refusal in network.refusals():
        what = f"{refusal['event']} to {refusal['address']} in process {refusal['process']}, from {refusal['from']}"
        nodeid, _, _ = refusal["test"].rpartition(" (")
        report = pytest.TestReport(
            nodeid=nodeid or refusal["test"],
            location=("", None, nodeid or refusal["test"]),
            keywords={},
            outcome="failed",
            longrepr=f"Refused: {what}. Tests may reach the loopback interface only.",
            when="teardown",
        )
        session.config.hook.pytest_runtest_logreport(report=report)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was counted; a fault case is one request of an act, hit by one fault, and the act repeated."""
    for text in _PRINTED:
        terminalreporter.write_line(text)
    if _FAULT_CASES:
        terminalreporter.write_line(f"{sum(_FAULT_CASES)} fault cases: every request of an act with every fault")
    terminalreporter.write_line(network.summary())
