"""Algorithms on tuples of cores; the value types above only call these."""
