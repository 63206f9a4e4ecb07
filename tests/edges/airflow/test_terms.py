"""The terms of a job as fields that Airflow renders: what is checked when, what is bought again, and what Airflow keeps of it."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keld import Job, Keld
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import ROWS, Worker, since
from tests.support.ticket_job import fault

DAY: dict[str, Any] = {"partition_key": "2026-11-19", "partition_date": datetime(2026, 11, 19, tzinfo=UTC)}
TERMS: dict[str, Any] = {"name": "labels", "key": "id", "prompt": "Classify: {body}", "models": "openai:gpt-5-mini"}


def rows() -> list[dict[str, Any]]:
    return ROWS


def operator(dag: Any = None, **given: Any) -> Any:
    from keld_airflow import KeldBatchOperator

    return KeldBatchOperator(**{"task_id": "label", "source": rows, "dag": dag, **TERMS, **given})


def dag_of(**given: Any) -> Any:
    from airflow.sdk import DAG

    return DAG("dag", schedule=None, **given)


def lines(provider: Emulator) -> list[str]:
    """The requests in the one batch that was sent."""
    [batch] = provider.batches()
    url = f"{provider.url}/v1/files/{batch['input_file_id']}/content"
    return httpx2.get(url, headers={"authorization": f"Bearer {provider.api_key}"}).text.splitlines()


def asked(provider: Emulator) -> str:
    """The prompt of the one request in the one batch that was sent."""
    [line] = lines(provider)
    return json.loads(line)["body"]["messages"][-1]["content"]


# --- while the Dag is parsed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"models": "{{ params.model }}", "lane": "fast"}, "lane='fast' is not one of"),
        ({"models": "{{ params.model }}", "prompt": "no column"}, "prompt names no column"),
        ({"ceiling_usd": "{{ params.ceiling }}", "models": "gpt-5-mini"}, "the form is 'provider:model'"),
        ({"models": "{{ params.model", "ceiling_usd": 1}, "models: a text is no template of Jinja in line 1"),
        ({"tags": {"day": "{{ ds ~ }}"}}, "tags: a text is no template"),
        ({"system": "{% if %}"}, "system: a text is no template"),
        ({"prompt": "{% for %} {body}", "prompt_template_engine": "jinja"}, "prompt: a text is no template"),
        ({"prompt": "As of {{ ds }}: {body}"}, "prompt_template_engine='jinja'"),
        ({"prompt_template_engine": "mustache"}, "is not one of format, jinja"),
        ({"deadline": "26"}, "deadline='26' is neither a span"),
        ({"deadline": "2026-11-20 09:00:00"}, "has no time zone"),
        ({"max_output_tokens": "many"}, "max_output_tokens='many' must be a whole number"),
        ({"output_type": "{{ params.schema }}"}, "output_type is no template"),
        ({"completion_rate": "most"}, "completion_rate='most' is a share"),
        ({"completion_rate": 0.9, "fail_on_partial": True}, "both given"),
        ({"fail_on_partial": "False"}, "fail_on_partial='False' must be True or False"),
        ({"wait": "no"}, "wait='no' must be True or False"),
        ({"deferrable": "{{ params.d }}"}, "is no template"),
        ({"hedge": "off"}, "hedge='off' must be True or False"),
        ({"on_kill": "ignore"}, "on_kill='ignore' is not one of cancel, leave"),
        ({"cancel_on_kill": False}, "on_kill='cancel' or 'leave'"),
        ({"system_prompt": "Be brief."}, "Here it is system"),
        ({"fail_on_partial_error": True}, "Here it is fail_on_partial"),
    ],
)
def test_a_slip_beside_a_template_is_found_while_the_dag_is_parsed(given: dict[str, Any], says: str) -> None:
    """One template must not put off the checks of all that is plain."""
    with pytest.raises(Exception, match=says):
        operator(**given)


def test_a_job_whose_system_prompt_is_the_name_of_a_file_is_refused() -> None:
    """`job=` reads no files: every row would be asked with the name as its instruction."""
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator

    with DAG("dag", schedule=None), pytest.raises(Exception, match=r"the name of a file, 'prompts/STYLE\.MD'"):
        KeldBatchOperator(task_id="label", source="in.parquet", job=Job(**TERMS, system="prompts/STYLE.MD"))


def test_a_job_is_known_while_the_dag_is_parsed_if_no_term_is_a_template() -> None:
    task = operator(
        deadline="1d12h", ceiling_usd="0.50", max_output_tokens="64", probability="0.9", probe="false", models="openai:a, mistral:b"
    )
    assert task.job == Job(
        **TERMS | {"models": ["openai:a", "mistral:b"]},
        deadline=timedelta(hours=36),
        ceiling_usd=Decimal("0.5"),
        max_output_tokens=64,
        probability=0.9,
        probe=False,
    )
    with pytest.raises(Exception, match="known only when Airflow has rendered them"):
        _ = operator(models="{{ params.model }}").job


def test_the_fields_that_airflow_shows_are_those_that_were_given() -> None:
    """Twenty empty ones would hide the four that a person looks for; a function is never one of them, since Airflow would call it."""
    shown = operator(prompt=lambda batch: ["p"] * batch.num_rows, tags={"team": "{{ dag.dag_id }}"}).template_fields
    assert {"source", "sink", "models", "tags", "name", "partition"} <= set(shown)
    assert {"prompt", "ceiling_usd", "output_type"}.isdisjoint(shown)


# --- on the worker ----------------------------------------------------------------------------------------------------

RENDERED: dict[str, Any] = {
    "models": ["openai:{{ params.model }}", "{{ var.value.other_model }}"],
    "system": "Today is {{ partition_key }}.",
    "request_params": {"temperature": "{{ params.temperature }}", "user": "{{ params.user }}", "seed": 7},
    "ceiling_usd": "{{ params.ceiling }}",
    "deadline": "{{ params.hours }}h",
    "name": "labels_{{ params.team }}",
    "output_prefix": "{{ params.team }}_",
    "tags": {"team": "{{ params.team }}", "day": "{{ partition_key | replace('-', '') }}"},
    "key": "{{ params.key }}",
    "missing": {"body": "{{ params.team }}"},
    "priority": "{{ params.key }}",
    "completion_rate": "{{ params.share }}",
    "max_output_tokens": "{{ params.tokens }}",
    "probe": "{{ params.probe }}",
}
PARAMS = {
    "model": "gpt-5-mini", "temperature": 0.2, "user": "42", "ceiling": 0.5, "hours": 26, "team": "support", "key": "id", "share": 0.8,
    "tokens": 64, "probe": False,
}  # fmt: skip


@since("3.2")
@pytest.mark.parametrize("native", [False, True], ids=["text", "native objects"])
def test_every_term_may_be_a_template(worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """With params, a Variable and the partition, as text and as Jinja's native types."""
    monkeypatch.setenv("AIRFLOW_VAR_OTHER_MODEL", "openai:gpt-5")
    sent = worker.until_sent(operator(dag_of(params=PARAMS, render_template_as_native_obj=native), **RENDERED), **DAY)
    assert sent.task.job == Job(
        name="labels_support", key="id", prompt="Classify: {body}", models=["openai:gpt-5-mini", "openai:gpt-5"], system="Today is 2026-11-19.",
        params={"temperature": 0.2, "user": "42", "seed": 7}, ceiling_usd="0.5",
        deadline=timedelta(hours=26), output_prefix="support_", tags={"team": "support", "day": "20261119"}, missing={"body": "support"},
        priority="id", max_output_tokens=64, probe=False,
    )  # fmt: skip
    assert sent.task.completion_rate == 0.8
    assert sent.rendered["models"] == ["openai:gpt-5-mini", "openai:gpt-5"]
    assert sent.rendered["name"] == "labels_support"
    assert sent.rendered["tags"] == {"team": "support", "day": "20261119"}


@pytest.mark.parametrize("key", ["2026_11", "1.10", "0x10", "1e3", "[eu]", "'eu'", "20261119", "2026-11-19"])
def test_a_partition_is_the_text_that_a_template_gives_also_in_a_dag_with_native_objects(
    worker: Worker, provider: Emulator, key: str
) -> None:
    """Jinja's native types read 2026_11 as 202611, and 1.10 as 1.1: another partition, whose rows would be asked and paid for once more."""
    dag = dag_of(params={"key": key}, render_template_as_native_obj=True)
    task = operator(dag, partition="{{ params.key }}", name="labels_{{ params.key | length }}", tags={"of": "{{ params.key }}"})
    sent = worker.until_sent(task, **DAY)
    assert sent.rendered["partition"] == key
    assert sent.task.job.tags == {"of": key}


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("{{ 7 }}", "7"),
        ("{{ macros.datetime(2026, 11, 19).date() }}", "2026-11-19"),
        ("{{ macros.datetime(2026, 11, 19, 6) }}", "2026-11-19 06:00:00"),
    ],
)
@pytest.mark.parametrize("native", [False, True], ids=["text", "native objects"])
def test_a_partition_that_is_a_number_or_an_instant_is_its_text(
    worker: Worker, provider: Emulator, given: str, key: str, native: bool
) -> None:
    """The same in both kinds of Dags: a Dag that is switched to native objects finds the job runs that it had."""
    sent = worker.until_sent(operator(dag_of(render_template_as_native_obj=native), partition=given), **DAY)
    assert sent.rendered["partition"] == key


@pytest.mark.parametrize("template", ["{{ params.rows }}", "{{ params.rows | tojson }}"])
@pytest.mark.parametrize("native", [False, True], ids=["text", "native objects"])
def test_rows_that_a_template_gives_are_read_and_shown_to_nobody(
    worker: Worker, provider: Emulator, capfd: pytest.CaptureFixture[str], template: str, native: bool
) -> None:
    """`{{ ti.xcom_pull('rows') }}` is how Dags of Airflow 1 pass them on; without native objects it leaves their text, which counted as a path."""
    dag = dag_of(params={"rows": ROWS}, render_template_as_native_obj=native)
    sent = worker.until_sent(operator(dag, source=template, partition="all"), **DAY)
    assert len(lines(provider)) == len(ROWS)
    assert "CANARY" not in sent.kept + "".join(capfd.readouterr())


def test_rows_whose_text_nobody_can_read_are_refused_without_quoting_them(
    worker: Worker, provider: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    dag = dag_of(params={"rows": "[{'id': 1, 'body': 'CANARY', 'at': datetime.datetime(2026, 11, 19, 0, 0)}]"})
    ended = worker.run(operator(dag, source="{{ params.rows }}", partition="all"), **DAY)
    assert "source was rendered as the text of rows, which cannot be read. Nothing was sent" in str(ended.error)
    assert "CANARY" not in ended.kept + "".join(capfd.readouterr())
    assert provider.requests() == []


def test_a_partition_that_a_template_renders_from_a_list_is_refused(worker: Worker, provider: Emulator) -> None:
    """`expand` was forgotten: all regions would be one partition, called "['eu', 'us']"."""
    ended = worker.run(operator(dag_of(params={"regions": ["eu", "us"]}), partition="{{ params.regions }}"), **DAY)
    assert "partition is a list, and a task instance has one key. Nothing was sent. Map over them" in str(ended.error)
    assert provider.requests() == []


@pytest.mark.parametrize(
    ("field", "gave", "says"),
    [
        ("partition", ["eu", "us"], "partition is a list, and a task instance has one key"),  # expand was forgotten
        ("partition", {"region": "eu"}, "partition is a dict, and a task instance has one key"),
        ("tags", ["support", "nightly"], "tags is a list"),
        ("request_params", "temperature=0", "params is a str"),
        ("keld_conn_id", 7, "keld_conn_id is a int"),
    ],
)
def test_what_another_task_gave_is_refused_where_it_is_of_another_kind(
    worker: Worker, provider: Emulator, field: str, gave: Any, says: str
) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException
    from airflow.sdk import task

    with dag_of():

        @task
        def regions() -> Any: ...

        label = operator(None, **{field: regions()})
    worker.gave["regions"] = gave
    ended = worker.run(label, **DAY)
    assert isinstance(ended.error, AirflowFailException), ended.error
    assert says in str(ended.error)
    assert "Nothing was sent" in str(ended.error)
    assert provider.requests() == []


@pytest.mark.parametrize(
    ("given", "deadline"),
    [
        ("{{ params.span }}", timedelta(hours=26)),
        ("PT{{ 20 + 6 }}H", timedelta(hours=26)),
        ("{{ macros.timedelta(hours=26) }}", timedelta(hours=26)),
        pytest.param(
            "{{ partition_date + macros.timedelta(days=3650) }}",
            datetime(2026, 11, 19, tzinfo=UTC) + timedelta(days=3650),
            marks=since("3.3"),
        ),
    ],
)
def test_a_deadline_is_read_from_what_a_template_leaves(worker: Worker, provider: Emulator, given: str, deadline: Any) -> None:
    sent = worker.until_sent(operator(dag_of(params={"span": "26h"}), deadline=given), **DAY)
    assert sent.task.job.deadline == deadline


def test_what_another_task_gave_may_be_any_term(worker: Worker, provider: Emulator) -> None:
    """It is a value, and never a template: a prompt from a table may hold braces of any kind."""
    from airflow.sdk import task

    @task
    def choose() -> Any: ...

    @task
    def write() -> Any: ...

    with dag_of() as dag:
        operator(models=choose(), system=write())
    worker.gave |= {"choose": ["openai:gpt-5-mini"], "write": "Say {{ partition_key }} CANARY"}
    label = dag.get_task("label")
    assert label.upstream_task_ids == {"choose", "write"}
    sent = worker.until_sent(label, **DAY)
    assert (sent.task.job.models, sent.task.job.system) == (("openai:gpt-5-mini",), "Say {{ partition_key }} CANARY")
    assert "CANARY" not in sent.kept


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"models": "{{ params.model }}"}, "the form is 'provider:model'"),
        ({"ceiling_usd": "{{ params.nothing }}"}, "ceiling_usd was rendered as 'None'"),
        ({"name": "labels.{{ params.nothing }}"}, "name was rendered as 'None', or with 'None' in it"),
        ({"partition": "eu|{{ params.nothing }}"}, "partition was rendered as 'None', or with 'None' in it"),
        ({"source": "in/{{ params.nothing }}.parquet"}, "source was rendered as 'None'"),
        ({"sink": "out/{{ params.nothing }}.parquet"}, "sink was rendered as 'None'"),
        ({"tags": {"team": "{{ params.nothing }}"}}, "tags was rendered as 'None'"),
        ({"request_params": {"seed": "{{ params.nothing }}"}}, "request_params was rendered as 'None'"),
        ({"system": "prompts/{{ params.model }}.md"}, "the name of a file, 'prompts/gpt-5-mini.md'"),
        ({"system": "Answer in {{ params.nothing }}."}, "system was rendered as 'None'"),
        ({"prompt": "{body} {{ params.nothing }}", "prompt_template_engine": "jinja"}, "prompt was rendered as 'None'"),
        ({"ceiling_usd": "{{ params.model }}"}, "is not a number of US dollars"),
        ({"deadline": "{{ params.model }}"}, "is neither a span"),
        ({"name": "{{ params.model }} {{ params.model }}"}, "a job's name starts with a letter"),
        pytest.param({"tags": {"day": "{{ ds }}"}}, "tags wants {{ ds }}", marks=since("3.2")),  # before, each day is an interval
        pytest.param({"system": "As of {{ logical_date }}"}, "system wants {{ logical_date }}", marks=since("3.2")),
        ({"system": "As of {{ parms.model }}"}, "'parms' is undefined"),
        ({"completion_rate": "{{ params.model }}"}, "is a share of the rows"),
        ({"encoding": "{{ params.model }}"}, "is not the name of an encoding"),
        ({"prompt": "{{ params.model }}", "prompt_template_engine": "jinja"}, "prompt names no column"),
    ],
)
@pytest.mark.parametrize("native", [False, True], ids=["text", "native objects"])
def test_a_rendered_term_that_is_not_valid_fails_the_task_for_good_and_nothing_is_sent(
    worker: Worker, provider: Emulator, given: dict[str, Any], says: str, native: bool
) -> None:
    """A retry would render it the same; and a ceiling that is missing must not be a job without one."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    ended = worker.run(
        operator(dag_of(params={"model": "gpt-5-mini", "nothing": None}, render_template_as_native_obj=native), **given), **DAY
    )
    assert isinstance(ended.error, AirflowFailException), ended.error
    assert says in str(ended.error)
    assert "Nothing was sent" in str(ended.error)
    assert provider.requests() == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"partition": "eu|{{ dag_run.conf['day'] }}"}, "has no attribute 'day'"),
        ({"sink": "out/{{ dag_run.conf.day }}/labels.parquet"}, "has no attribute 'day'"),
        ({"ceiling_usd": "{{ budget }}"}, "'budget' is undefined"),
        ({"prompt": "{body} {{ policy }}", "prompt_template_engine": "jinja"}, "'policy' is undefined"),
    ],
)
@pytest.mark.parametrize("lenient", ["Undefined", "ChainableUndefined", "DebugUndefined"])
def test_a_name_that_nobody_gave_is_refused_in_a_dag_whose_jinja_would_leave_it_empty(
    worker: Worker, provider: Emulator, given: dict[str, Any], says: str, lenient: str
) -> None:
    """`DAG(template_undefined=jinja2.Undefined)` is how Dags of Airflow 1 go on: "eu|" would be one partition for all days, paid once."""
    import jinja2

    ended = worker.run(operator(dag_of(template_undefined=getattr(jinja2, lenient)), **given), **DAY)
    assert says in str(ended.error)
    assert "Nothing was sent" in str(ended.error)
    assert provider.requests() == []


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("changed", "bought"),
    [
        ({"tags": {"team": "other"}, "ceiling_usd": "{{ 1 + 1 }}", "deadline": "{{ 48 }}h", "priority": "id", "max_attempts": 5}, 0),
        ({"completion_rate": 0.5, "probability": "0.9", "on_kill": "leave", "prompt_template_engine": "jinja"}, 0),
        ({"system": "Be {{ 'brief' }}."}, 0),
        ({"prompt": "{{ 'Classify' }}: {body}", "prompt_template_engine": "jinja"}, 0),  # the same prompt, written in another way
        ({"system": "Be {{ 'long' }}."}, 5),
        ({"request_params": {"temperature": "{{ 1 }}"}}, 5),
        ({"models": "openai:{{ 'gpt-5' }}"}, 5),
        ({"name": "{{ 'others' }}"}, 5),
    ],
)
def test_only_what_decides_the_answer_is_bought_again(worker: Worker, provider: Emulator, changed: dict[str, Any], bought: int) -> None:
    """A tag, a ceiling or a deadline that is rendered differently each day must not make each day's rows new ones."""
    before = worker.through(operator(system="Be brief.", tags={"team": "{{ dag.dag_id }}"}, ceiling_usd=1), provider, **DAY)
    assert before.state == "success", before.error
    paid = len(provider.bill())
    after = worker.through(operator(**{"system": "Be brief.", **changed}), provider, **DAY)
    assert after.state == "success", after.error
    assert len(provider.bill()) - paid == bought


# --- prompts ----------------------------------------------------------------------------------------------------------


@since("3.2")
def test_jinja_is_run_over_the_prompt_and_never_over_a_row_or_over_what_it_put_in(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row may say `{{ var.value.secret }}`, and a Variable may hold JSON, whose braces are no columns."""
    monkeypatch.setenv("AIRFLOW_VAR_CATEGORIES", '{"bug": 1}')
    monkeypatch.setenv("AIRFLOW_VAR_SECRET", "CANARY")
    prompt = "{% if partition_key %}{{ partition_key }}{% endif %} {{ var.value.categories }} {{ '{body}' }} {{ 1 + 1 }}: {body}"
    task = operator(
        source=lambda: [{"id": 1, "body": "{{ var.value.secret }} {% raw %} {x}"}], prompt=prompt, prompt_template_engine="jinja"
    )
    visit = worker.until_sent(task, **DAY)
    assert visit.task.job.prompt == '2026-11-19 {{"bug": 1}} {{body}} 2: {body}'
    assert asked(provider) == '2026-11-19 {"bug": 1} {body} 2: {{ var.value.secret }} {% raw %} {x}'
    assert visit.rendered["prompt"].startswith("<text: ")
    assert "CANARY" not in visit.kept


@since("3.2")
def test_airflow_keeps_no_text_of_a_prompt_neither_in_the_dag_nor_when_it_is_rendered_nor_in_a_log(
    worker: Worker, provider: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its digest shows whether it changed; and the Dag reads the same each time it is parsed."""
    from airflow.serialization.serialized_objects import DagSerialization

    def made() -> Any:
        with dag_of() as dag:
            operator(prompt="CANARY {{ partition_key }} {body}", system="CANARY {{ partition_key }}", prompt_template_engine="jinja")
        return dag

    stored = DagSerialization.to_dict(made())
    assert stored == DagSerialization.to_dict(made())
    visit = worker.until_sent(made().get_task("label"), **DAY)
    broken = worker.run(operator(system="CANARY {{ nobody.knows }}"), **DAY)
    assert broken.state == "failed"
    assert visit.rendered["system"] != worker.until_sent(made().get_task("label"), partition_key="2026-11-20").rendered["system"]
    assert "CANARY" not in str(stored) + visit.kept + broken.kept + str(broken.error) + "".join(capfd.readouterr())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a Dag, and one on its search path."""
    for name, text in {
        "dags/prompts/triage.md": "Classify: {body}\n",
        "dags/rules.txt": "\ufeffBe {{ 'brief' }}.",
        "shared/triage.jinja": "{% include 'rules.md' %}: {body}",
        "shared/rules.md": "Classify",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def in_folder(folder: Path, **given: Any) -> Any:
    dag = dag_of(template_searchpath=[str(folder / "shared")], **given)
    dag.fileloc = str(folder / "dags/tickets.py")
    return dag


@pytest.mark.share(2)
@pytest.mark.parametrize("form", ["beside the Dag", "on the search path", "a path", "an absolute name", "a Dag that comes later", "mapped"])
def test_a_prompt_may_be_in_a_file(worker: Worker, provider: Emulator, folder: Path, form: str) -> None:
    """It asks what the same text asks in the Dag; moving it to a file buys nothing."""
    files: dict[str, Any] = {
        "on the search path": "triage.jinja", "a path": folder / "dags/prompts/triage.md", "an absolute name": str(folder / "dags/prompts/triage.md"),
    }  # fmt: skip
    given = {"prompt": files.get(form, "prompts/triage.md"), "system": "rules.txt"}
    worker.through(operator(system="Be brief."), provider, **DAY)
    dag = in_folder(folder)
    if form == "mapped":
        from keld_airflow import KeldBatchOperator

        with dag:
            KeldBatchOperator.partial(task_id="label", source=rows, **TERMS | given).expand(partition=["2026-11-19"])
        task = dag.get_task("label").unmap({"partition": "2026-11-19"})
    else:
        task = operator(None if form == "a Dag that comes later" else dag, **given)
        task.dag = dag
    ended = worker.through(task, provider, **DAY)
    assert ended.state == "success", ended.error
    assert len(provider.bill()) == 5


def test_a_file_that_is_not_there_is_told_while_the_dag_is_parsed(folder: Path) -> None:
    for given in ({"prompt": "prompts/triag.md"}, {"system": "rule.txt"}, {"prompt": folder / "triage.md"}):
        with pytest.raises(Exception, match=r"is the name of a file, .*Nothing was sent"):
            operator(in_folder(folder), **given)
    late = operator(system="rule.txt")
    late.dag = in_folder(folder)
    with pytest.raises(Exception, match=rf"there is none in {folder}/dags, {folder}/shared"):
        late.dag.resolve_template_files()


def test_a_text_that_only_ends_like_a_file_is_a_text(folder: Path) -> None:
    task = operator(in_folder(folder), prompt="{body}.md", system="Answer as in README.md")
    assert (task.job.prompt, task.job.system) == ("{body}.md", "Answer as in README.md")


# --- mapped -----------------------------------------------------------------------------------------------------------


@since("3.2")
def test_a_task_may_be_mapped_over_its_terms(worker: Worker, provider: Emulator, home: Keld) -> None:
    """Models compared with one another: each instance is a job of its own, by the name that is rendered for it."""
    from keld_airflow import KeldBatchOperator

    with dag_of() as dag:
        KeldBatchOperator.partial(
            task_id="label", source=rows, key="id", prompt="Classify: {body}", **{"name": "labels.{{ task.models.split(':')[1] }}"} , tags={"day": "{{ partition_key }}"}
        ).expand(models=["openai:gpt-5-mini", "openai:gpt-5"])  # fmt: skip
    for index in range(2):
        visit = worker.run(dag.get_task("label"), map_index=index, **DAY)
        assert visit.state == "deferred", visit.error
    assert sorted(status.job for status in home.statuses()) == ["labels.gpt-5", "labels.gpt-5-mini"]


def test_a_task_may_be_mapped_over_several_terms_together(worker: Worker, provider: Emulator, home: Keld) -> None:
    from keld_airflow import KeldBatchOperator

    each = [{"name": f"labels_{n}", "ceiling_usd": f"0.{n}", "deadline": f"{n}h", "prompt": f"{n}" + ": {body}"} for n in (1, 2)]
    with dag_of() as dag:
        KeldBatchOperator.partial(task_id="label", source=rows, key="id", model="openai:gpt-5-mini").expand_kwargs(each)
    visit = worker.run(dag.get_task("label"), map_index=1, **DAY)
    assert visit.state == "deferred", visit.error
    assert (visit.task.job.name, visit.task.job.ceiling, visit.task.job.deadline) == ("labels_2", Decimal("0.2"), timedelta(hours=2))


def test_a_task_may_be_mapped_over_its_tables(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """Source, sink and partition of each instance together, as the task before lists them."""
    from keld_airflow import KeldBatchOperator

    tables = []
    for region in ("eu", "us"):
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / f"{region}.parquet")
        place = {"source": f"{tmp_path}/{region}.parquet", "sink": f"{tmp_path}/{region}/{{partition}}.parquet"}
        tables.append({**place, "partition": f"{region}|{{{{ partition_key or ds }}}}"})
    with dag_of() as dag:
        KeldBatchOperator.partial(task_id="label", name="labels", key="id", prompt="{body}", model="openai:gpt-5-mini").expand_kwargs(
            tables
        )
    for index in range(2):
        ended = worker.through(dag.get_task("label"), provider, map_index=index, **DAY)
        assert ended.state == "success", ended.error
        assert ended.manifest["partition"].endswith("|2026-11-19")
        assert pq.read_table(ended.manifest["sink"]).num_rows == 5
    assert len(provider.bill()) == 10


def test_an_instance_whose_terms_are_not_valid_fails_for_good(worker: Worker, provider: Emulator) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from keld_airflow import KeldBatchOperator

    with dag_of() as dag:
        KeldBatchOperator.partial(task_id="label", source=rows, key="id", prompt="{body}").expand(models=["gpt-5-mini"])
    ended = worker.run(dag.get_task("label"), map_index=0, **DAY)
    assert isinstance(ended.error, AirflowFailException), ended.error
    assert "the form is 'provider:model'" in str(ended.error)
    assert provider.requests() == []


# --- Airflow's own conventions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "given", "deferrable"),
    [(None, None, True), ("False", None, False), ("True", None, True), ("False", True, True), (None, False, False)],
)
def test_a_task_defers_unless_somebody_has_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, given: bool | None, deferrable: bool
) -> None:
    """Airflow's own default is False, and would hold a slot for a night."""
    from keld_airflow import KeldJobSensor

    if setting is not None:
        monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", setting)
    asked = {} if given is None else {"deferrable": given}
    assert operator(**asked).deferrable is deferrable
    assert KeldJobSensor(task_id="collect", job_run="x", **asked).deferrable is deferrable


@pytest.mark.wide
def test_the_file_that_a_new_airflow_writes_makes_no_task_hold_its_slot(tmp_path: Path) -> None:
    """`default_deferrable = false` stands in it, by nobody's choice."""
    code = (
        "from airflow.configuration import write_default_airflow_configuration_if_needed as begin; begin(); "
        "from keld_airflow.setting import default_deferrable; print(default_deferrable())"
    )
    home = {"AIRFLOW_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | home)
    assert "\ndefault_deferrable = false" in (tmp_path / "airflow.cfg").read_text().lower()
    assert ended.stdout.strip().endswith("True"), ended.stderr


@pytest.mark.parametrize(
    ("given", "state"), [({"fail_on_partial": True}, "failed"), ({"fail_on_partial": False}, "success"), ({}, "failed")]
)
def test_a_task_that_must_be_complete_fails_for_one_row_and_one_that_need_not_be_never_does(
    worker: Worker, provider: Emulator, given: dict[str, Any], state: str
) -> None:
    fault(provider, "rows", "refusal", fraction=0.4)
    ended = worker.through(operator(**given), provider, **DAY)
    assert ended.state == state, ended.error


def test_the_decorator_takes_templates_too(worker: Worker, provider: Emulator) -> None:
    """Its function is no field that Airflow renders, and its arguments are as they were."""
    from airflow.sdk import task

    @task.keld_batch(
        key="id", prompt="{{ params.verb }}: {body}", prompt_template_engine="jinja", models=["openai:{{ params.model }}"], ceiling_usd="{{ 1 }}",
        name="labels_{{ task.op_kwargs.region }}", tags={"region": "{{ task.op_kwargs.region }}"},
    )  # fmt: skip
    def label(region: str) -> list[dict[str, Any]]:
        return ROWS

    with dag_of(params={"verb": "Classify", "model": "gpt-5-mini"}) as dag:
        label(region="eu")
    sent = worker.until_sent(dag.get_task("label"), **DAY)
    assert sent.task.job == Job(**TERMS | {"name": "labels_eu", "models": ["openai:gpt-5-mini"]}, ceiling_usd=1, tags={"region": "eu"})
    assert sent.rendered["op_kwargs"] == {"region": "eu"}


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({"completion_rate": "{{ params.share }}"}, "success"),
        ({"completion_rate": "{{ 2 }}"}, "failed"),
        ({"fail_on_partial": True}, "failed"),
    ],
)
def test_the_sensor_has_the_same_terms_of_completion(worker: Worker, provider: Emulator, given: dict[str, Any], state: str) -> None:
    from keld_airflow import KeldJobSensor

    fault(provider, "rows", "refusal", fraction=0.4)
    sent = worker.run(operator(wait=False), **DAY)
    sensor = KeldJobSensor(task_id="collect", job_run=sent.manifest, dag=dag_of(params={"share": 0.5}), **given)
    ended = worker.through(sensor, provider, **DAY)
    assert ended.state == state, ended.error
