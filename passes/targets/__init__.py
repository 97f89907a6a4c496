"""Targets: fast and slow forms of graphs for each runtime, a folder for each."""
