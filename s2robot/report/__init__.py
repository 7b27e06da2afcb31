"""Result folders → Markdown, CSV, plots and one self-contained HTML page.

load.py           reading and validating results   arm_results.py  cells and arms that have results
plan_document.py  the file benchmark.json          plan.py         what all such files planned
pairs.py          which arms are compared          contrasts.py    arms compared
wording.py        findings in words                tables.py       Markdown and CSV
plots.py          the look of the plots            figures.py      the plots
page.py           the HTML page (templates/)
"""

from s2robot.report.run import plot_run
from s2robot.report.write import write_report

__all__ = ["plot_run", "write_report"]
