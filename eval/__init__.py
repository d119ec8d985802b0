"""Sampling runs, the sample store, statistics, comparisons and reports."""
