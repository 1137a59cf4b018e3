"""Every claim of the paper that can be put to a test, and the verdicts."""

from __future__ import annotations

from collections import Counter

from benchmarks.paper.report.aggregate import Evidence
from benchmarks.paper.report.arithmetic import ARITHMETIC
from benchmarks.paper.report.costs import COSTS
from benchmarks.paper.report.findings import Claim, Finding
from benchmarks.paper.report.measured import MEASURED
from benchmarks.paper.report.table import Table

CLAIMS: tuple[Claim, ...] = (*MEASURED, *COSTS, *ARITHMETIC)


def verdicts(evidence: Evidence) -> list[tuple[Claim, Finding]]:
    """What became of each claim, whatever there is of results."""
    return [(claim, claim.check(evidence)) for claim in CLAIMS]


def table(found: list[tuple[Claim, Finding]]) -> Table:
    """The claims with their verdicts, one a row."""
    rows = [(claim.where, claim.says, f"**{finding.verdict}**", finding.because) for claim, finding in found]
    return Table(("where", "the paper says", "verdict", "what was found"), rows)


def summary(found: list[tuple[Claim, Finding]]) -> str:
    """How many claims ended how."""
    counts = Counter(finding.verdict for _, finding in found)
    return f"Of {len(found)} claims {', '.join(f'{number} {verdict}' for verdict, number in sorted(counts.items()))}."
