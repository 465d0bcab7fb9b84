"""Measurements, run by `make bench`: ratios and medians in one run, against what a user would otherwise use."""
