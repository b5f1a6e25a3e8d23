"""Settings every test shares: quiet native code, one seed, no bytecode surprises."""

from __future__ import annotations

import os

import pytest

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


_FAULT_CASES: list[int] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collects what `tests/faults/every_fault.py` counted, also from the workers of pytest-xdist."""
    if report.when == "call":
        _FAULT_CASES.extend(int(str(value)) for name, value in report.user_properties if name == "fault_cases")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the number: one request of an act, hit by one fault, and the act repeated."""
    if _FAULT_CASES:
        terminalreporter.write_line(f"{sum(_FAULT_CASES)} fault cases: every request of an act with every fault")
