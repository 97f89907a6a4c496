"""The sections of docs/benchmarks.md, each made of a record."""
