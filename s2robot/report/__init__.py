"""Result folders → Markdown, CSV, plots and one self-contained HTML page.

arm_results.py  cells and arms            load.py      reading and validating the files
plan.py         what was planned          pairs.py     which arms are compared
contrasts.py    arms compared             wording.py   findings in words
plots.py        the look of the plots     figures.py   the plots
tables.py       Markdown and CSV          page.py      the HTML page (templates/)
"""

from s2robot.report.run import plot_run
from s2robot.report.write import write_report

__all__ = ["plot_run", "write_report"]
