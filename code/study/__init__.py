"""Grids of runs: their tables, figures and pages. Reads finished runs' folders, trains nothing."""
