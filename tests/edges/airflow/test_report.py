"""The task that writes the report: its page is there, its XCom and its link lead to it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import ROWS, Worker, job
from tests.support.audit_result import write_result


@pytest.fixture
def asked(home: Keld, provider: Emulator) -> Keld:
    """A ledger with one job run whose batch is at the provider."""
    home.advance(home.submit(job(tags={"team": "support"}), ROWS, partition="2026-11-19").id)
    return home


def test_the_task_writes_the_page_and_gives_the_sums(asked: Keld, worker: Worker, tmp_path: Path) -> None:
    from keld_airflow import KeldReportOperator

    path, audit = tmp_path / "2026-11-20" / "keld.html", write_result(tmp_path)
    visit = worker.run(
        KeldReportOperator(task_id="report", path=f"{tmp_path}/{{{{ ds }}}}/keld.html", audit=str(audit)),
        logical_date=datetime(2026, 11, 20, tzinfo=UTC),
    )
    assert (visit.state, visit.xcoms["return_value"]["report"]) == ("success", str(path)), visit.error
    assert visit.xcoms["return_value"]["job_runs"] == 1
    assert "support" in path.read_text()
    assert "What could still wait" in path.read_text()
    assert "CANARY" not in path.read_text() + visit.kept


@pytest.mark.parametrize(("url", "link"), [("https://reports.example/keld.html", "https://reports.example/keld.html"), (None, "")])
def test_the_link_of_the_task_is_the_address_at_which_people_open_the_page(
    asked: Keld, worker: Worker, tmp_path: Path, url: str | None, link: str
) -> None:
    from keld_airflow import KeldReportOperator

    visit = worker.run(KeldReportOperator(task_id="report", path=str(tmp_path / "keld.html"), url=url))
    [shown] = KeldReportOperator.operator_extra_links
    assert shown.get_link(visit.task, ti_key=None) == link  # type: ignore[arg-type]  # the link does not need it


def test_a_report_that_no_retry_can_write_fails_at_once(asked: Keld, worker: Worker, tmp_path: Path) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from keld_airflow import KeldReportOperator

    visit = worker.run(KeldReportOperator(task_id="report", path=str(tmp_path / "keld.html"), by="cost centre", retries=5))
    assert isinstance(visit.error, AirflowFailException)
    assert "choose one of team, project" in str(visit.error)


@pytest.mark.parametrize("days", ["30", 0, -7, True, 10**9])
def test_a_span_that_is_no_number_of_days_is_told_while_the_dag_is_parsed(days: object) -> None:
    from keld_airflow import KeldReportOperator

    with pytest.raises(ValueError, match="is not a number of days"):
        KeldReportOperator(task_id="report", path="keld.html", days=days)  # type: ignore[arg-type]
