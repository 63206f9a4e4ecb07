"""Versions: the oldest and the newest of each orchestrator, pinned, each in an environment of its own, in which its fast and wide tests pass.

`requirements.lock` holds one version of everything, with which all tests run; users have others.  For each other one there are two files here:

    <name>.in                what is asked for: the version, and what the tests need
    requirements-<name>.txt  what `make lock` made of it: every package with its hash

`make versions` makes the environment `.venv/versions/<name>` from the second, with this checkout of Keld in it, and runs the fast and wide tests of
the orchestrator there: the folder `tests/edges/<orchestrator>`, where `<orchestrator>` is what is before the first hyphen of the name.
`make versions NAMES=dagster-oldest TESTS=tests/edges/dagster/test_backfill.py` runs a share, as `.ci/run` does.
"""
