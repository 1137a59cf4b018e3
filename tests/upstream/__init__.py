"""PEFT's own test suite, run with rows for the methods of ttlib_peft: `python -m tests.upstream`."""
