"""Example Dags: small, complete, to copy from.

They bring rows of their own, and begin paused; with `keld emulate` they cost nothing.

    example_keld_daily      a table of each day, its deadline, its ceiling, and who is told if it is late
    example_keld_regions    a task mapped over regions, each a partition of its own with an event for Dags that follow
    example_keld_taskflow   `@task.keld_batch`: the rows come from a function, the next task reads what it cost
    example_keld_collect    one task sends, a sensor collects, others run in between
"""
