"""The pass: every model on every example once, and what is measured of it.

* `example_checks`, `trial`, `signature_check`: whether examples, files and float model fit each other, before the pass.
* `evaluation`: puts the pass together; `prediction` is its step that runs the models, which `predict` opens.
* `metric_inputs`, `corrected_metrics`: labels, weights and outputs in the shapes that metrics take.
* `vectorized`: metrics, slices and paired samples of whole batches; `paired` is what a paired sample holds.
* `aside`: small findings beside the metrics, such as `fidelity` and `sample`.
* `results`: reads back what the pass wrote.
* `rows`: the features of a few examples, as the models get them.
* `worker_versions`: all workers run the same code.
"""
