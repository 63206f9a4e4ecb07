"""What a person does and sees in Dagster's UI, by a real browser on a real Dagster."""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

pytest.importorskip("playwright", reason="the environments of `make versions` have no browser")
from playwright.sync_api import Page, expect

from example_project.deployment import Dagster, running_dagster
from keld.emulator import Emulator
from keld.price import Lane
from keld.pricing import rates
from tests.edges.dagster import code_location
from tests.edges.dagster.conftest import LATENCY_S, LOCATION
from tests.support.chromium import take_picture
from tests.support.ticket_job import entry_usd

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(5400)]

TWENTY = code_location.DAYS.get_partition_keys()[:20]
DAY, BLOCKED = code_location.DAYS.get_partition_keys()[20:22]
LONG_MS = 2_400_000  # Dagster's backfill daemon looks every 30 s, two of forty runs go at once, and the machine may be busy


@pytest.fixture(scope="module")
def provider() -> Iterator[Emulator]:
    """Its batches take an hour, on a clock that the test turns."""
    with Emulator(latency_s=LATENCY_S) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the assets are, by their IO manager; the tickets are there."""
    tables = tmp_path_factory.mktemp("tables")
    (tables / "tickets").mkdir()
    for day in (*TWENTY, DAY, BLOCKED):
        code_location.tickets(dg.build_asset_context(partition_key=day)).to_parquet(tables / "tickets" / f"{day}.parquet")
    return tables


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory, provider: Emulator, tables: Path) -> Iterator[Dagster]:
    place = tmp_path_factory.mktemp("browser")
    settings = {**provider.env(), "TEST_HOME": str(place / "keld"), "TEST_TABLES": str(tables)}
    with running_dagster(place / "dagster", ("-f", str(LOCATION), "-d", str(LOCATION.parent)), settings) as dagster:
        dagster.wait_until_up()
        with dg.DagsterInstance.from_config(str(dagster.home)) as instance:
            for day in (*TWENTY, DAY, BLOCKED):
                instance.report_runless_asset_event(dg.AssetMaterialization("tickets", partition=day))
        dagster.start_daemon()
        yield dagster


@pytest.fixture
def page(page: Page) -> Page:
    """With the theme that the browser prefers."""
    page.add_init_script("""localStorage.setItem("dagster-theme", JSON.stringify("System"))""")
    return page


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


def test_a_person_materializes_twenty_days_and_they_complete_though_the_daemon_was_off(
    dagster: Dagster, provider: Emulator, page: Page
) -> None:
    """Twenty batches are at the provider at once, and nothing runs meanwhile; Dagster must neither give up nor call it done."""
    wait_for_partitions(page, dagster, "tickets", 22)
    materialize(page, dagster, f"[{TWENTY[0]}...{TWENTY[-1]}]")
    wait_for_partitions(page, dagster, "labels_batch", 20)
    page.goto(f"{dagster.url}/runs")
    for tab in ("Queued (20)", "In progress (0)"):
        expect(page.get_by_role("tab", name=tab)).to_be_visible(timeout=LONG_MS)
    page.get_by_role("tab", name="Queued (20)").click()
    expect(page.get_by_role("link", name="keld_provider_wait")).to_have_count(20)
    expect(page.get_by_text(re.compile("^keld: at the provider, [0-4] of 5 rows")).first).to_be_visible()  # and no tag of ids
    expect(page.get_by_text("job_runs")).to_have_count(0)
    page.goto(f"{dagster.url}/assets/labels_batch?view=partitions&partition={TWENTY[0]}")
    for told in ("at the provider", "[0-4] of 5 rows done.*", "never: there is no deadline"):
        expect(page.get_by_role("cell", name=re.compile(f"^{told}$"))).to_be_visible()
    take_picture(page, "dagster-waiting", height=960, dark=True)
    page.goto(f"{dagster.url}/assets/labels?view=partitions&partition={TWENTY[0]}")
    page.get_by_text("that targets this partition is queued").get_by_role("link").click()
    expect(page.get_by_text("waiting_at_the_provider").first).to_be_visible()
    page.goto(f"{dagster.url}/runs")
    page.get_by_role("tab", name="Backfills").click()
    page.locator("a[href^='/runs/b/']").first.click()
    expect(page.get_by_text("0% completed")).to_be_visible()
    take_picture(page, "dagster-backfill", height=420, dark=True)
    dagster.stop_daemon()
    provider.advance(LATENCY_S)
    dagster.start_daemon()
    expect(page.get_by_text("100% completed")).to_be_visible(timeout=LONG_MS)
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible(timeout=LONG_MS)
    assert len(provider.batches()) == 20
    assert Counter(entry.custom_id for entry in provider.bill()).most_common(1)[0][1] == 1
    assert len(provider.bill()) == 100


def test_a_person_sees_what_a_day_has_cost(dagster: Dagster, provider: Emulator, page: Page) -> None:
    """One partition is a plain run; afterwards the asset's page says what is in it, and what was paid, as the bill does."""
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
    take_picture(page, "dagster", height=960, dark=True)  # down to what was saved
    page.goto(f"{dagster.url}/assets/labels?view=overview")
    page.set_viewport_size({"width": 1200, "height": 960})  # plots keep the width that they were drawn with
    for button in ("Columns", "Plots"):  # the first is closed, so that there is room
        page.get_by_role("button", name=button).click()
    expect(page.locator("canvas").first).to_be_visible()
    take_picture(page, "dagster-plots", height=960, dark=True)


def test_a_person_sees_why_a_day_failed_and_has_it_for_nothing_when_it_is_mended(
    dagster: Dagster, provider: Emulator, page: Page, tables: Path
) -> None:
    """The IO manager fails in the collect run: what stands in its way, a directory, says so on the page of the partition."""
    sent, there = len(provider.batches()), len(list((tables / "labels").glob("*.parquet"))) if (tables / "labels").exists() else 0
    in_the_way = tables / "labels" / f"{BLOCKED}.parquet"
    in_the_way.mkdir(parents=True)
    materialize(page, dagster, BLOCKED)
    wait_for_partitions(page, dagster, "labels_batch", sent + 1)
    provider.advance(LATENCY_S)
    page.goto(f"{dagster.url}/assets/labels?view=partitions&partition={BLOCKED}")
    expect(page.get_by_text("Failed (1)")).to_be_visible(timeout=LONG_MS)
    page.goto(f"{dagster.url}/assets/labels_batch?view=partitions&partition={BLOCKED}")
    expect(page.get_by_text(f"labels[{BLOCKED}] is not collected: its collect run")).to_be_visible(timeout=LONG_MS)
    take_picture(page, "dagster-reason", height=960, dark=True)
    paid = provider.bill()
    in_the_way.rmdir()
    materialize(page, dagster, BLOCKED)
    wait_for_partitions(page, dagster, "labels", there + 1)
    assert provider.bill() == paid
