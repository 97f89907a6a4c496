"""The sections of benchmarks/pages/benchmarks.md, each made of a record."""
