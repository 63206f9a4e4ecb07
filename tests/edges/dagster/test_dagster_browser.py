"""What a person does and sees in Dagster's UI, by a real browser on a real Dagster."""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import pytest
from playwright.sync_api import Page, expect

from example_project.deployment import Dagster, running_dagster
from keld.emulator import Emulator
from keld.price import Lane
from keld.pricing import rates
from tests.edges.dagster.conftest import LATENCY_S, LOCATION
from tests.support.chromium import take_picture
from tests.support.ticket_job import entry_usd

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]

WEEK = [f"2026-11-0{day}" for day in range(1, 8)]
DAY = "2026-11-08"
LONG_MS = 180_000  # Dagster's backfill daemon looks every 30 s, and two runs go at once


@pytest.fixture(scope="module")
def provider() -> Iterator[Emulator]:
    """Its batches take an hour, on a clock that the test turns."""
    with Emulator(latency_s=LATENCY_S) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory, provider: Emulator) -> Iterator[Dagster]:
    place = tmp_path_factory.mktemp("browser")
    settings = {**provider.env(), "TEST_HOME": str(place / "keld"), "TEST_TABLES": str(place / "tables")}
    with running_dagster(place / "dagster", ("-f", str(LOCATION), "-d", str(LOCATION.parent)), settings) as dagster:
        dagster.wait_until_up()
        dagster.start_daemon()
        dagster.launch_backfill([*WEEK, DAY], ["tickets"])
        yield dagster


def wait_for_partitions(page: Page, dagster: Dagster, asset: str, how_many: int) -> None:
    page.goto(f"{dagster.url}/assets/{asset}?view=partitions")
    expect(page.get_by_text(f"Materialized ({how_many})")).to_be_visible(timeout=LONG_MS)


def materialize(page: Page, dagster: Dagster, partitions: str) -> None:
    """By the dialog of the result's page; that its batch is not there yet, of which Dagster warns, is no reason not to."""
    page.goto(f"{dagster.url}/assets/labels")
    page.get_by_role("button", name="Materialize…").click()
    warning, dialog = (page.get_by_role("dialog").filter(has_text=text) for text in ("Are you sure?", "Launch runs to materialize labels"))
    expect(warning.or_(dialog)).to_be_visible()
    if warning.is_visible():
        warning.get_by_role("button", name="Confirm").click()
    dialog.get_by_role("button", name="Custom").click()
    dialog.get_by_role("textbox").first.fill(partitions)
    dialog.get_by_role("textbox").first.press("Tab")
    dialog.get_by_role("button", name=re.compile("^Launch")).click()
    expect(dialog).to_be_hidden()


def test_a_person_materializes_a_week_and_it_completes(dagster: Dagster, provider: Emulator, page: Page) -> None:
    """Seven batches are at the provider at once, and nothing runs meanwhile; Dagster must neither give up nor call it done."""
    wait_for_partitions(page, dagster, "tickets", 8)
    materialize(page, dagster, f"[{WEEK[0]}...{WEEK[-1]}]")
    wait_for_partitions(page, dagster, "labels_batch", 7)
    page.goto(f"{dagster.url}/runs")
    for tab in ("Queued (7)", "In progress (0)"):
        expect(page.get_by_role("tab", name=tab)).to_be_visible(timeout=LONG_MS)
    page.get_by_role("tab", name="Queued (7)").click()
    expect(page.get_by_role("link", name="keld_provider_wait")).to_have_count(7)
    expect(page.get_by_text("keld: at the provider, 0 of 5 rows").first).to_be_visible()  # and no tag of ids
    expect(page.get_by_text("job_runs")).to_have_count(0)
    page.goto(f"{dagster.url}/assets/labels_batch?view=partitions&partition={WEEK[0]}")
    for told in ("at the provider", "0 of 5 rows done (0%)", "never: there is no deadline"):
        expect(page.get_by_role("cell", name=told, exact=True)).to_be_visible()
    take_picture(page, "dagster-waiting", height=960)
    page.goto(f"{dagster.url}/assets/labels?view=partitions&partition={WEEK[0]}")
    page.get_by_text("that targets this partition is queued").get_by_role("link").click()
    expect(page.get_by_text("waiting_at_the_provider").first).to_be_visible()
    page.goto(f"{dagster.url}/runs")
    page.get_by_role("tab", name="Backfills").click()
    page.locator("a[href^='/runs/b/']").first.click()
    expect(page.get_by_text("0% completed")).to_be_visible()
    provider.advance(LATENCY_S)
    expect(page.get_by_text("100% completed")).to_be_visible(timeout=LONG_MS)
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible(timeout=LONG_MS)
    assert len(provider.batches()) == 7
    assert Counter(entry.custom_id for entry in provider.bill()).most_common(1)[0][1] == 1
    assert len(provider.bill()) == 35


def test_a_person_sees_what_a_day_has_cost(dagster: Dagster, provider: Emulator, page: Page) -> None:
    """One partition is a plain run; afterwards the asset's page says what is in it, and what was paid, as the bill does."""
    wait_for_partitions(page, dagster, "tickets", 8)
    sent, billed = len(provider.batches()), len(provider.bill())
    materialize(page, dagster, DAY)
    wait_for_partitions(page, dagster, "labels_batch", sent + 1)
    provider.advance(LATENCY_S)
    wait_for_partitions(page, dagster, "labels", sent + 1)
    paid = sum(
        (entry_usd(entry, rates(entry.provider, entry.model, Lane(entry.lane), entry.at)) for entry in provider.bill()[billed:]), Decimal()
    )
    page.goto(f"{dagster.url}/assets/labels")
    expect(page.get_by_text(DAY)).to_be_visible()
    facts = {"dagster/partition_row_count": "5", "keld/answered": "5 of 5 rows", "keld/answered_share": "1", "keld/cost_usd": f"{paid:.6f}"}
    for name, value in facts.items():
        row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
        expect(row.get_by_role("cell").last).to_have_text(value)
    page.goto(f"{dagster.url}/assets/labels?view=partitions&partition={DAY}")
    expect(page.get_by_text("keld/cost_usd", exact=True)).to_be_visible()
    take_picture(page, "dagster", height=960)  # down to what was saved
