"""The report in Chromium: silent, alone, accessible, and no wider than a phone or a sheet of paper.

`make test-report` says how to get what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import evaluation_records
from tfx_mobile.quantization_evaluator import report

_PYTHON = Path(__file__).parents[2] / ".tools" / "browser" / "bin" / "python"
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
_SCRIPT = Path(__file__).with_name("open_page.py")
_SECONDS = 300.0
_HOSTILE = "<img src=x onerror=alert(1)>\N{RIGHT-TO-LEFT OVERRIDE}漢字_" + "very_long" * 12


def _missing(what: str) -> None:
    """Skips, or fails where a browser was asked for."""
    (pytest.fail if os.environ.get("TFX_MOBILE_NEEDS_CHROMIUM") else pytest.skip)(what)


@pytest.fixture(scope="module")
def open_in_browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function from an HTML document to what `open_page` says of it."""
    python = os.environ.get("TFX_MOBILE_BROWSER_PYTHON") or str(_PYTHON)
    if not Path(python).exists():
        _missing(f"no environment with playwright at {python}; `make setup` makes it")
    asked = os.environ.get("TFX_MOBILE_CHROMIUM")
    chromium = next((path for name in ([asked] if asked else _CHROMIUMS) if (path := shutil.which(name))), None)
    if chromium is None:
        _missing(
            f"no Chromium: {asked or ', '.join(_CHROMIUMS)} cannot be run. Install one, on Debian with "
            "`apt-get install chromium`, or set TFX_MOBILE_CHROMIUM to the path of one"
        )

    def look(document: str) -> dict[str, Any]:
        path = tmp_path_factory.mktemp("page") / "report.html"
        path.write_text(document, encoding="utf-8")
        command = [python, "-I", str(_SCRIPT), str(chromium), str(path)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return look


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(evaluation_records.record(trained="integer_only_int8"), id="blessed"),
        pytest.param(evaluation_records.record(winner=None), id="not_blessed"),
        pytest.param(evaluation_records.bare(), id="nothing_scored"),
        pytest.param(evaluation_records.crowded(8, 12, name=_HOSTILE), id="crowded_and_hostile"),
    ],
)
def test_the_report_is_silent_alone_accessible_and_fits(open_in_browser, record):
    found = open_in_browser(report.render_page(record))
    for view in found["views"]:
        assert view["messages"] == [], view["view"]
        assert view["requests"] == [], view["view"]
        assert view["overflow"] <= 0, view["view"]
    checked = [view for view in found["views"] if view["violations"] is not None]
    assert [view["view"] for view in checked] == ["light, 1200 px", "dark, 360 px"]
    for view in checked:
        assert view["violations"] == [], view["view"]
        assert "color-contrast" in view["passed"], "axe-core did not look at the colours"
    assert found["paper"]["is_pdf"]
    assert found["paper"]["overflow"] <= 0
    assert found["paper"]["colors"] == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]


def test_what_is_wrong_with_a_page_is_found(open_in_browser):
    bad = """<!doctype html><html><title>bad</title><style>p { color: #ccc; width: 2000px }</style>
    <img src="https://example.invalid/x.png"><p>pale</p><script>console.warn("noise"); throw Error("broken")</script>"""
    for view in open_in_browser(bad)["views"]:
        assert {"warning: noise", "error: broken"} <= set(view["messages"])
        assert view["requests"] == ["https://example.invalid/x.png"]
        assert view["overflow"] > 0
        if view["violations"] is not None:
            rules = {violation.split()[0] for violation in view["violations"]}
            assert {"html-has-lang", "image-alt", "color-contrast"} <= rules
