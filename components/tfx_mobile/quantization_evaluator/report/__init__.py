"""What people read of an evaluation, all of it made from its record alone.

    page           report.html: which sections there are, and the page around them
    card           model_card.md: one page of Markdown about the blessed model
    judgement      the record's verdicts in words
    overview       size, latency, memory and metrics per variant, as one table
    pareto         size against quality, as a plot
    forest         changes and their intervals by variant and slice, as forest plots
    strips         quantization error by layer, as heat strips
    compatibility  variants against profiles, as a matrix
    formatting     numbers and names for people
    templates/     one file per section; page.css is the whole style

`record.json` is the same content for programs: nothing is on the page or the card that is not in the record.
"""

from tfx_mobile.quantization_evaluator.report.card import render_card
from tfx_mobile.quantization_evaluator.report.page import render_page

__all__ = ["render_card", "render_page"]
