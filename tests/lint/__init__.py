"""Checks of wording, pages, rooms and generated files: `python -m lint`, which `make lint` runs beside ruff."""
