# Everything needs only Python 3.11+, git, make and pip; the first target that runs makes .venv from requirements.lock.
PY := .venv/bin/python

.PHONY: demo airflow-demo unit test wide types versions older crash browser pictures map schedules adversary faults matrix prices decisions lint bench bench-full lock clean

.venv/ready: requirements.lock pyproject.toml
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"
	.venv/bin/uv pip sync --quiet --compile-bytecode --require-hashes --python $(PY) requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check "uv>=0.9"
	.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --python $(PY) --editable .
	touch $@

demo: .venv/ready  ## the main job: four partitions through a real Dagster, against the emulator; about a minute
	$(PY) -m example_project.demo

airflow-demo: .venv/ready  ## the same through a real Airflow
	$(PY) -m example_project.airflow_demo

# The suite starts a thousand processes: none of them should compile again what another one has compiled.
unexport PYTHONDONTWRITEBYTECODE

# The suite commits thousands of small transactions, each with an fsync: use memory instead of the disk if there is room.
ROOMY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR==2 && $$4 > 4000000 {print "/dev/shm"}')

unit: .venv/ready  ## the tests without a server; under a minute
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m pytest -q -n auto tests/unit

test: .venv/ready  ## the fast suite
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m pytest -q -n auto --dist loadgroup

wide: .venv/ready  ## what the fast suite leaves out because it shows the same at another place, or larger; CI runs it after the fast suite
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m pytest -q -n auto --dist loadgroup -m "wide and not slow and not browser"

types: .venv/ready  ## mypy over users' files, against the built wheel; a minute
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m pytest -q -m "slow or not slow" tests/edges/test_wheel.py

crash: .venv/ready  ## SIGKILL at every failpoint, every kind, both databases, staging in a bucket, and at instants without a failpoint; half an hour
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m pytest -q -n auto -m "slow or not slow" tests/chaos/test_crash.py tests/chaos/test_bucket.py tests/chaos/test_instant.py

# Each name is a file tests/versions/requirements-<name>.txt; see tests/versions/__init__.py.
NAMES := $(patsubst tests/versions/requirements-%.txt,%,$(wildcard tests/versions/requirements-*.txt))

.venv/versions/%/ready: tests/versions/requirements-%.txt pyproject.toml | .venv/ready
	.venv/bin/uv venv --quiet --clear --python $(PY) $(@D)
	.venv/bin/uv pip sync --quiet --require-hashes --python $(@D)/bin/python $<
	.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --python $(@D)/bin/python --editable .
	touch $@

.PRECIOUS: .venv/versions/%/ready  # else make would remove it, as a file on the way to another
versions: $(NAMES:%=version-%)  ## the fast and the wide tests of each orchestrator with its oldest and its newest version, NAMES and TESTS of them; minutes

version-%: .venv/versions/%/ready
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) .venv/versions/$*/bin/python -m pytest -q -n $(CORES) --dist loadgroup -m "not slow and not browser" $(or $(TESTS),tests/edges/$(firstword $(subst -, ,$*)))

.venv/older/%/ready: tests/versions/older/%.txt | .venv/ready
	.venv/bin/uv venv --quiet --clear --python 3.11 $(@D)
	.venv/bin/uv pip sync --quiet --require-hashes --python $(@D)/bin/python $<
	touch $@

older: .venv/older/airflow-2.10/ready .venv/older/airflow-2.11/ready .venv/older/airflow-3.0/ready  ## the Dag of docs/how-to/airflow-2.md in Airflow 2.10, 2.11 and 3.0, with Keld beside; minutes
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m pytest -q -m slow tests/edges/airflow/test_older.py

browser: .venv/ready  ## a person's clicks in the UIs of a real Airflow and a real Dagster, by Chromium; minutes
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m pytest -q -m browser

pictures: .venv/ready  ## the pictures of the README, taken by the same tests; minutes
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) KELD_PICTURES=1 $(PY) -m pytest -q -m browser -k a_person

map: .venv/ready  ## the map of the code, into docs/architecture.md
	$(PY) -m tests.house.architecture

faults: .venv/ready  ## the fault table, docs/reference/faults.md: what a provider may do, what Keld does about it, what it costs
	$(PY) -m tests.faults > docs/reference/faults.md

matrix: .venv/ready  ## every kind, every call, every fault, played and printed; and what a lost, late or doubled create buys at each; minutes
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) $(PY) -m tests.faults.matrix $(KINDS)

prices: .venv/ready  ## keld/prices.toml, from the price file of a pinned wheel of litellm, which is downloaded and never installed
	$(PY) -m tests.prices

N := 20000
SEED = $(shell shuf -i 1-1000000000 -n 1)
CORES := auto
PLAYED := tests/adversary

schedules: .venv/ready  ## N random schedules of workers that freeze and die, providers that break and clocks that jump; some 2 a second and core
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) KELD_SCHEDULES=$(N) KELD_SEED=$(SEED) $(PY) -m pytest -q -n $(CORES) -p tests.support.worker_schedule --show-capture=no -m "not slow" -k no_schedule tests/chaos/test_schedule.py

adversary: .venv/ready  ## the table of what a gateway, a proxy or a host of the shape may do, then N random mixes of it; some 4 a second and core
	TMPDIR=$(or $(ROOMY),$(TMPDIR),/tmp) KELD_MIXES=$(N) KELD_SEED=$(SEED) $(PY) -m pytest -q -n $(CORES) --show-capture=no -m "slow or not slow" $(PLAYED)

decisions: N := 5000
decisions: SEED := 1
decisions: .venv/ready  ## the policy simulation: Keld, its rivals and a clairvoyant over N job runs; prints what each kept and paid
	@$(PY) -m tests.decisions --runs $(N) --seed $(SEED)

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

ROWS := 100000
ROUNDS := 5

PEERS := script openai-batch litellm airflow langbatch curator

bench: .venv/ready  ## figures, minutes, into .bench; PEERS= without the other tools; nothing is asserted
	$(PY) -m tests.benchmarks --rows $(ROWS) --rounds $(ROUNDS) --peers $(PEERS)

bench-full: .venv/ready  ## the same, and 10^6 and 10^7 rows, and 1 to 1,000 partitions; an hour
	$(PY) -m tests.benchmarks --rows $(ROWS) --rounds $(ROUNDS) --peers $(PEERS) --full

lock:
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras --group dev \
	  --no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	for wanted in tests/versions/*.in; do name=$$(basename $$wanted .in); .venv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-emit-package keld --no-emit-index-url --custom-compile-command "make lock" $$wanted \
	  -o tests/versions/requirements-$$name.txt || exit 1; done

clean:
	rm -rf .venv .demo .airflow-demo .bench .keld
