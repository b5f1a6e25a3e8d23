"""From measurements to verdicts and a winner.

* `judgement`: puts it together and makes the record.
* `gates`: what TFMA's validation says, and the verdicts.
* `thresholds`, `intervals`, `changes`, `reasons`: limits on changes, how sure a change is, what follows, in words.
* `budget`, `costs`, `latency`, `device_latency`: limits on the file, and the figures they are about.
* `objective`: the winner among those that passed.
* `second_baseline`: the model in production.
"""
