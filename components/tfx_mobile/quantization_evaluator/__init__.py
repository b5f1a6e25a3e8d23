"""Scores the float SavedModel and every variant on the same examples, gates each variant and blesses the best.

* `component`, `driver`, `executor`: the TFX side. `parameters`, `production`: what a pipeline author gives.
* `eval_config`: from the EvalConfig of a stock Evaluator to one with a ModelSpec per scored model.
* `scoring`: the Beam pass. `judging`: verdicts and the winner. `close_look`: layers and golden vectors.
* `report`: the page and the model card.
* `beam_options`, `versions`: where the pass may run, and with what.
"""
