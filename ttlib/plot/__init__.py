"""`ttlib.plot`: five pictures, each of rows that can be had as a table too; needs matplotlib.

Every picture is drawn into `ax`, or into a new figure where it is None, and returns its Axes.  The figure is
matplotlib's own object and pyplot never hears of it: `ax.figure.savefig("ranks.png")` writes it, `ax.set_title(…)`
names it.

| picture | its rows |
|---|---|
| `spectrum` | `spectrum_rows` |
| `rank_profile` | `rank_rows` |
| `pareto` | `pareto_rows` |
| `contraction_tree` | `contraction_rows` |
| `heat_map` | what it is given |
"""

from __future__ import annotations

try:
    import matplotlib as mpl  # noqa: F401  # optional; asked for here, so that the modules below need not
except ImportError as error:
    msg = 'ttlib.plot draws with matplotlib, which is not installed: pip install "ttlib[plot]"'
    raise ImportError(msg) from error

from ttlib.plot.bars import RankRow, rank_profile, rank_rows
from ttlib.plot.front import ParetoRow, pareto, pareto_rows
from ttlib.plot.grid import heat_map
from ttlib.plot.lines import SpectrumRow, spectrum, spectrum_rows
from ttlib.plot.tree import ContractionRow, contraction_rows, contraction_tree

__all__ = [
    "ContractionRow",
    "ParetoRow",
    "RankRow",
    "SpectrumRow",
    "contraction_rows",
    "contraction_tree",
    "heat_map",
    "pareto",
    "pareto_rows",
    "rank_profile",
    "rank_rows",
    "spectrum",
    "spectrum_rows",
]
