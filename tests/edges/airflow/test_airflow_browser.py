"""What a person does and sees in Airflow's UI, by a real browser on a real Airflow."""

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

import pytest

pytest.importorskip("playwright", reason="the environments of `make versions` have no browser")
from playwright.sync_api import Locator, Page, expect

from tests.edges.airflow.live_airflow import KEY, QUIET, Stack, live
from tests.support.chromium import take_picture

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(3600)]

DAYS = [f"2026-02-{day:02}" for day in range(1, 11)]
COUNT = len(DAYS)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with live(tmp_path_factory.mktemp("browser"), dags=("label",), **QUIET) as stack:
        stack.settle("label")
        yield stack


def show(page: Page, stack: Stack, path: str) -> None:
    page.goto(f"{stack.airflow.url}{path}")


def shown_task(run_id: str) -> str:
    return f"/dags/label/runs/{quote(run_id)}/tasks/label"


def choose_instant(form: Locator, edge: str, day: str) -> None:
    """The day at one edge of the form's range; the time is the form's: a day's first minute, and its last."""
    form.get_by_role("group").filter(has_text=edge).click()
    box = form.page.get_by_role("textbox", name=edge)
    box.fill(day.replace("-", "/"))
    box.press("Escape")
    expect(box).to_be_hidden()


def launch(form: Locator) -> None:
    """Presses the button, and once more where SQLite was busy: the form stays open for it."""
    for _ in range(5):
        with form.page.expect_response(lambda answer: answer.url.endswith("/api/v2/backfills") and answer.request.method == "POST") as told:
            form.get_by_role("button", name="Run Backfill").click()
        if told.value.status != 503:
            break
    assert told.value.ok, told.value.text()


def test_a_person_fills_ten_days_by_the_backfill_form(stack: Stack, page: Page) -> None:
    """The form says one run at a time; with ten, all days are at the provider at once, through two slots."""
    airflow, before, billed = stack.airflow, stack.creates(), len(stack.emulator.bill())
    show(page, stack, "/dags/label")
    page.get_by_role("button", name="Trigger Dag").click()
    page.get_by_text("Run this Dag for a range of dates").click()
    form = page.get_by_role("dialog").filter(has=page.get_by_role("heading", name="Run Backfill"))
    choose_instant(form, "From", DAYS[0])
    choose_instant(form, "To", DAYS[-1])
    expect(form.get_by_text(f"{COUNT} runs will be triggered")).to_be_visible()
    expect(form.get_by_role("radio", name="Missing Runs")).to_be_checked()
    expect(form.get_by_role("spinbutton")).to_have_value("1")
    form.get_by_role("spinbutton").fill(str(COUNT))
    launch(form)
    airflow.until(lambda: airflow.states("label", "label", "backfill") == ["deferred"] * COUNT, "all are deferred")
    expect(page.get_by_text("Backfill in progress")).to_be_visible()
    show(page, stack, "/dags/label/tasks/label/task_instances")
    expect(page.get_by_role("row").filter(has_text="Deferred")).to_have_count(COUNT)
    take_picture(page, "airflow")
    stack.provider_ends()
    airflow.until(lambda: airflow.states("label", "label", "backfill") == ["success"] * COUNT, "all are through")
    assert stack.creates() - before == COUNT
    assert Counter(entry.custom_id for entry in stack.emulator.bill()).most_common(1)[0][1] == 1
    assert len(stack.emulator.bill()) - billed == 5 * COUNT
    assert {path.stem for path in (stack.place / "tables").glob("*.parquet")} >= set(DAYS)


def test_a_task_that_waits_is_shown_as_deferred_with_a_link_to_its_batch(stack: Stack, page: Page) -> None:
    """The provider's own page of the batch is where a person looks next."""
    run_id = stack.start("2026-03-01")
    show(page, stack, f"/dags/label/runs/{quote(run_id)}")
    row = page.get_by_role("row").filter(has_text="KeldBatchOperator")
    expect(row.get_by_text("Deferred")).to_be_visible()
    row.get_by_role("link", name="label").click()
    page.get_by_role("link", name="Details", exact=True).click()
    [batch] = [one["id"] for one in stack.emulator.batches() if one["status"] == "in_progress"]
    expect(page.get_by_role("link", name="Keld batch")).to_have_attribute("href", f"https://platform.openai.com/batches/{batch}")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    expect(page.get_by_role("cell", name="success")).to_be_visible()


def test_a_person_reads_in_the_log_how_far_a_task_is_that_waits(stack: Stack, page: Page) -> None:
    """One line each time that something has changed; the triggerer writes it, and Airflow shows it with what the worker has written."""
    run_id = stack.start("2026-03-04")
    show(page, stack, shown_task(run_id))
    expect(page.get_by_text("0 of 5 rows answered, 1 batch")).to_be_visible()
    expect(page.get_by_text("At the provider: 0 of 5 rows done in 1 batch")).to_be_visible()
    take_picture(page, "airflow-log", height=700)
    stack.provider_ends()
    stack.wait_for(run_id, "success")


def test_what_a_task_has_done_is_told_by_its_xcom(stack: Stack, page: Page) -> None:
    run_id = stack.start("2026-03-02")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    show(page, stack, f"{shown_task(run_id)}/xcom")
    page.get_by_role("button", name="Expand all extra JSON").click()
    manifest = page.get_by_role("row").filter(has_text="return_value").get_by_role("code")
    for fact in ('"partition": "2026-03-02"', '"state": "finished"', '"rows": 5', '"answered": 5', '"failed": 0'):
        expect(manifest).to_contain_text(fact)


def test_each_partition_is_an_event_on_the_page_of_the_asset(stack: Stack, page: Page) -> None:
    run_id = stack.start("2026-03-03")
    stack.provider_ends()
    stack.wait_for(run_id, "success")
    show(page, stack, "/assets")
    page.get_by_role("link", name="labelled").click()
    expect(page.get_by_text("Partition Key: 2026-03-03")).to_be_visible()
    expect(page.get_by_role("code").first).to_be_visible()


def test_a_person_finds_keld_s_own_fields_in_the_form_of_a_connection(stack: Stack, page: Page) -> None:
    """Each with a name and a line that says what belongs there; the key goes where Airflow encrypts and hides it."""
    show(page, stack, "/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog").filter(has=page.get_by_role("heading", name="Add Connection"))
    form.get_by_role("textbox", name="Connection ID").fill("keld_support")
    form.get_by_role("combobox", name="Connection Type").fill("Keld")
    page.get_by_role("option", name="Keld", exact=True).click()
    form.get_by_label("Base URL").fill("https://llm.example/v1")
    form.get_by_label("API key").fill(KEY)
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    for label in ("Provider", "Account", "More accounts", "Ledger connection", "Home", "Namespace"):
        expect(form.get_by_role("group").filter(has_text=re.compile(f"^{label}"))).to_be_visible()
    expect(form.get_by_text("The name before the colon in a job's models.")).to_be_visible()
    form.get_by_role("group").filter(has_text=re.compile("^Namespace")).get_by_role("textbox").fill("support")
    take_picture(page, "airflow-connection", height=930)
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row").filter(has_text="keld_support")).to_be_visible()
    kept = stack.airflow.ask("GET", "/api/v2/connections/keld_support")
    assert (kept["conn_type"], kept["host"]) == ("keld", "https://llm.example/v1")
    assert '"namespace":"support"' in kept["extra"].replace(" ", "")
    assert KEY not in str(kept)
