"""Chromium: a real browser without a window, for the tests of what a person sees.

Playwright's own where it is installed, else the machine's, else Playwright's is fetched, once.  Pages are of this machine only, so the
sandbox stays off, as Playwright has it: root, whom containers run as, would get none.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Error, Page, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PICTURES = Path(__file__).parents[2] / "docs" / "images"
FETCH_S = 120
PATIENCE_MS = 120_000  # of a look at a page: an orchestrator just started on a busy machine takes its time


class NoChromium(Exception):
    """There is none, and none can be had; the message says why."""


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A browser, until the block ends.

    Raises:
        NoChromium: none is installed, and none can be fetched.
    """
    with sync_playwright() as playwright:
        browser = _launch(playwright)
        try:
            yield browser
        finally:
            browser.close()


def take_picture(page: Page, name: str, *, width: int = 1200, height: int = 800, dark: bool = False) -> None:
    """Writes what `page` shows to `docs/images/<name>.png`, if `make pictures` runs the tests; else nothing.

    `width` and `height` are in pixels; `dark` writes a second one, `<name>-dark.png`, if the UI goes by what the browser prefers.  The README shows these files, so they are only replaced when somebody asks for it: no two runs give the same bytes (ids, times).
    """
    if os.environ.get("KELD_PICTURES"):
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.set_viewport_size({"width": width, "height": height})  # half as large, its words can still be read
        page.mouse.move(0, 0)  # nothing is highlighted, and no tooltip is open
        page.screenshot(path=PICTURES / f"{name}.png", animations="disabled", caret="hide")
        if dark:
            page.emulate_media(color_scheme="dark")
            page.screenshot(path=PICTURES / f"{name}-dark.png", animations="disabled", caret="hide")
            page.emulate_media(color_scheme="light")


def _launch(playwright: Playwright) -> Browser:
    for path in (None, *filter(None, map(shutil.which, NAMES))):
        try:
            return playwright.chromium.launch(executable_path=path)
        except Error:
            continue  # not installed, or a library that it needs is not
    _fetch()
    try:
        return playwright.chromium.launch()
    except Error as error:
        raise NoChromium(f"Playwright's was fetched, and does not start: {error.message.splitlines()[0]}") from None


def _fetch() -> None:
    command = [sys.executable, "-m", "playwright", "install", "chromium-headless-shell"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise NoChromium(f"no {', '.join(NAMES)} starts here, and Playwright's was not fetched within {FETCH_S} s") from None
    if ended.returncode:
        said = [line.strip() for line in f"{ended.stdout}\n{ended.stderr}".splitlines() if "Error" in line]
        why = said[0] if said else f"exit status {ended.returncode}"
        raise NoChromium(f"no {', '.join(NAMES)} starts here, and Playwright's cannot be fetched: {why}")
