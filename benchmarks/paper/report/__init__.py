"""docs/evidence.md: from the lines of results to tables, verdicts and figures."""
