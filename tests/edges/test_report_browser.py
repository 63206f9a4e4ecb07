"""The pages of the report and of the audit, by a real browser: on a phone and on a screen, light and dark, with axe, and where a server forbids everything."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from keld.audit import examine
from keld.audit.page import page as audit_page
from keld.report.audited import audited
from keld.report.overview import overview_of
from keld.report.page import page_of
from tests.audit.workload import month
from tests.audit.writer import _lines, litellm_rows
from tests.engine.test_report import rates_of
from tests.support.audit_result import write_result
from tests.support.chromium import take_picture
from tests.support.report_book import company

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]

FORBIDDING = "default-src 'none'; sandbox"  # as a build server has it: no style either


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a company, with an audit beside."""
    return page_of(overview_of(company(), "team", rates_of, audited(write_result(tmp_path_factory.mktemp("audit")))))


@pytest.fixture(scope="module")
def audit_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of an audit: groups with each of the verdicts but one."""
    log = tmp_path_factory.mktemp("log") / "spend_logs.jsonl"
    calls = [replace(call, model="gpt-4.1", input=call.input * 20, output=call.output * 10) for call in month(1)]
    rows = zip(litellm_rows(calls), calls, strict=True)
    log.write_bytes(_lines(row | {"spend": call.input * 2e-6 + call.output * 8e-6} for row, call in rows))
    return audit_page(examine([str(log)], now=datetime(2026, 11, 30, tzinfo=UTC)))


@pytest.fixture
def served(text: str) -> Iterator[str]:
    """Its address on a server that forbids everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Security-Policy", FORBIDDING)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def opened(browser: "Browser", text: str, audit_text: str, tmp_path: Path) -> Iterator[Callable[..., "Page"]]:
    """Opens a page as a file; what the browser complains of, or asks anybody for, lies in `page.said`."""
    contexts = []
    (tmp_path / "report.html").write_text(text)
    (tmp_path / "audit.html").write_text(audit_text)

    def open_(width: int, scheme: Any, name: str = "report") -> "Page":
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.said = []  # type: ignore[attr-defined]  # kept with the page it is about
        page.on("console", lambda message: page.said.append(message.text))  # type: ignore[attr-defined]
        page.on("request", lambda request: page.said.append(request.url))  # type: ignore[attr-defined]
        page.goto((tmp_path / f"{name}.html").as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["report", "audit"])
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1200, "light"), (1200, "dark")])
def test_a_person_sees_a_page_that_fits_and_asks_for_nothing_and_axe_finds_nothing(
    opened: Callable[..., "Page"], tmp_path: Path, width: int, scheme: str, name: str
) -> None:
    page = opened(width, scheme, name)
    assert page.said == [(tmp_path / f"{name}.html").as_uri()]  # type: ignore[attr-defined]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png", full_page=True)
    if scheme == "light" and (width == 1200 or name == "audit"):
        take_picture(page, name if width == 1200 else f"{name}-phone", width=width, height=760, dark=name == "audit")
    page.evaluate((files(pytest.importorskip("axe_playwright_python")) / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found["violations"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_drawings_follow_the_readers_colours(opened: Callable[..., "Page"], scheme: str) -> None:
    colour = opened(1200, scheme).evaluate("getComputedStyle(document.querySelector('rect.s0')).fill")
    assert colour == {"light": "rgb(11, 107, 203)", "dark": "rgb(98, 168, 245)"}[scheme]


def test_on_paper_the_numbers_of_the_days_are_there(opened: Callable[..., "Page"]) -> None:
    """On the screen they are behind a click."""
    page = opened(1200, "light")
    row = page.locator("details tbody tr").first
    assert not row.is_visible()
    page.emulate_media(media="print")
    assert row.is_visible()


def test_where_a_server_forbids_styles_the_numbers_and_the_drawings_are_there(page: "Page", served: str) -> None:
    """Build servers show what a build wrote under such a policy."""
    page.goto(served)
    assert page.locator("rect.s0").first.evaluate("bar => bar.getBoundingClientRect().width") > 0
    assert page.locator("rect.s0").first.evaluate("bar => getComputedStyle(bar).fill") == "rgb(11, 107, 203)"
    assert page.get_by_role("rowheader", name="support").first.is_visible()
