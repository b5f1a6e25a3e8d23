"""Opens a page in Chromium as several readers would and prints what went wrong, as JSON; needs playwright and axe-core.

Run by the interpreter of `.tools/browser`: `python open_page.py CHROMIUM PAGE`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

# As root and in a container there is no sandbox; the page is our own. The rest keeps Chromium from calling home.
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Colour scheme, width in pixels, and whether axe-core looks too: it takes by far the longest, and sees each scheme and
# each width once.
_VIEWS = (("light", 1200, True), ("dark", 1200, False), ("light", 360, False), ("dark", 360, True))


def _look(browser: Browser, page_url: str, scheme: Any, width: int, check: bool) -> dict[str, Any]:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(f"error: {error}"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_url)
    overflow = [_overflow(page)]
    # What is folded is read too.
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    overflow.append(_overflow(page))
    found = Axe().run(page).response if check else None
    view = {
        "view": f"{scheme}, {width} px",
        "messages": messages,
        "requests": [url for url in requests if url != page_url],
        "overflow": max(overflow),
        "violations": [_in_words(violation) for violation in found["violations"]] if found else None,
        "passed": [rule["id"] for rule in found["passes"]] if found else None,
    }
    context.close()
    return view


def _print(browser: Browser, page_url: str) -> dict[str, Any]:
    context = browser.new_context(viewport={"width": 700, "height": 1000}, color_scheme="dark")
    page = context.new_page()
    page.emulate_media(media="print")
    page.goto(page_url)
    # White paper, whatever the reader's screen: ink on paper must be dark.
    colors = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]",
    )
    overflow = _overflow(page)
    pdf = page.pdf(format="A4", print_background=True)
    context.close()
    return {"colors": colors, "overflow": overflow, "is_pdf": pdf.startswith(b"%PDF-"), "bytes": len(pdf)}


def _overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def _in_words(violation: dict[str, Any]) -> str:
    places = [" ".join(map(str, node["target"])) for node in violation["nodes"]]
    return f"{violation['id']} ({violation['impact']}): {violation['help']}; {len(places)} places, first {places[0]}"


def main(chromium: str, path: str) -> None:
    """Prints one JSON document: `views`, one per colour scheme and width, and `paper`."""
    url = Path(path).resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        views = [_look(browser, url, *view) for view in _VIEWS]
        paper = _print(browser, url)
        browser.close()
    print(json.dumps({"views": views, "paper": paper}))


if __name__ == "__main__":
    main(*sys.argv[1:])
