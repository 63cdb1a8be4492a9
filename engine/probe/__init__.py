"""Measuring: a clock that waits for nothing while work runs, statistics that admit noise, and reports one can compare."""
