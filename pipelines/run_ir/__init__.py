"""Runs a compiled pipeline on this machine as Kubeflow's containers would: `python -m pipelines.run_ir digits.json`.

No cluster is needed to find out what only breaks there: each step is started through TFX's container entry points with
the executor input that Kubeflow would give it, and its output is read back the way Kubeflow does.

    ir           the compiled job, schema 2.0 and 2.1, as tasks in the order they can run
    conditions   the expressions that decide whether a task is skipped
    artifacts    what tasks hand to each other, and the resolvers' look at earlier runs
    steps        one container: in a forked process (fast), or from an installed wheel (true)
    runner       the whole job: drivers, importers, resolvers, skips, failures, exit handler
"""
