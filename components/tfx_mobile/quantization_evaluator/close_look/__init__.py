"""What is found out once the verdicts are there: `look` puts it together.

* `layer_errors`, `isolated_layers`: the error of each layer of a variant that failed.
* `golden`: vectors beside the winner, by which an app checks itself.
"""
