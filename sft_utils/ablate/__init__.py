"""Trials of 08: settings, stored results, statistics over seeds, plots, the report."""
