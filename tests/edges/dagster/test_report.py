"""The asset that writes the report: its page is there, its metadata lead to it, it is written each day."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from keld import Keld
from keld.emulator import Emulator
from keld_dagster import KeldResource, build_report_asset
from tests.support.audit_result import write_result
from tests.support.ticket_job import openai, run, triage


@pytest.fixture
def resource(keld: Keld, emulator: Emulator) -> KeldResource:
    """Of a ledger with one job run that is over."""
    run(keld, emulator, triage(openai, tags={"team": "support"}), partition="2026-11-19")
    return KeldResource(home=str(keld.home), ledger_url=keld.ledger_url, namespace="default")


def metadata(asset: dg.AssetsDefinition, resource: KeldResource) -> dict[str, dg.MetadataValue]:
    [event] = dg.materialize([asset], resources={"keld": resource}).asset_materializations_for_node(asset.op.name)
    return dict(event.metadata)


def test_a_materialisation_writes_the_page_and_says_where_it_is(resource: KeldResource, keld: Keld, tmp_path: Path) -> None:
    found = metadata(build_report_asset(tmp_path / "keld.html"), resource)
    assert found["keld/report"] == dg.MetadataValue.path(str(tmp_path / "keld.html"))
    assert found["keld/cost_usd"].value == round(float(keld.spend().total.paid_usd), 6)
    assert "support" in (tmp_path / "keld.html").read_text()


def test_the_link_is_the_address_at_which_people_open_the_page(resource: KeldResource, tmp_path: Path) -> None:
    found = metadata(build_report_asset(tmp_path / "keld.html", url="https://reports.example/keld.html"), resource)
    assert found["keld/report"] == dg.MetadataValue.url("https://reports.example/keld.html")


def test_an_audit_is_shown_beside(resource: KeldResource, tmp_path: Path) -> None:
    metadata(build_report_asset(tmp_path / "keld.html", audit=write_result(tmp_path)), resource)
    assert "What could still wait" in (tmp_path / "keld.html").read_text()


def test_only_the_latest_days_are_on_the_page(resource: KeldResource, emulator: Emulator, tmp_path: Path) -> None:
    class Later(KeldResource):
        def open(self) -> Keld:
            return Keld(
                home=self.home, ledger_url=self.ledger_url, namespace=self.namespace, clock=lambda: emulator.now() + timedelta(days=9)
            )

    later = Later(home=resource.home, ledger_url=resource.ledger_url, namespace="default")
    assert [metadata(build_report_asset(tmp_path / "keld.html", days=days), later)["keld/job_runs"].value for days in (8, 9, None)] == [
        0,
        1,
        1,
    ]


def test_it_is_written_each_day_unless_nobody_wants_that(tmp_path: Path) -> None:
    daily, by_hand = build_report_asset(tmp_path / "keld.html"), build_report_asset(tmp_path / "keld.html", cron=None)
    assert [asset.automation_conditions_by_key.get(asset.key) for asset in (daily, by_hand)] == [
        dg.AutomationCondition.on_cron("0 6 * * *", "UTC"),
        None,
    ]
    dg.Definitions.validate_loadable(dg.Definitions(assets=[daily], resources={"keld": KeldResource(home=str(tmp_path))}))
