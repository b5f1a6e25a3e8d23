"""Metrics, slices and paired samples of whole batches of predictions, equal to TFMA's.

* `rows`: labels, predictions and weights of a batch as arrays.
* `statistics`: what TFMA's combiners sum up per example, as columns.
* `combiners`: which statistic stands for which of TFMA's combiners.
* `histograms`: TFMA's confusion matrices of a histogram, without its loops.
* `plan`: which metrics of an EvalConfig have statistics, and which TFMA has to compute itself.
* `slices`: which rows belong to which slice.
* `bootstrap`: weights for the paired bootstrap.
* `state`: what is known of one slice, and how two such states add up.
* `evaluator`: the Beam step that takes TFMA's evaluator's place.
"""
