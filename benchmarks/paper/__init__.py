"""The study behind docs/evidence.md: the paper's tables and figures made again, with the controls they lack."""
