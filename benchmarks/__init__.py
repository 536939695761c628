"""Benchmarks that anyone can rerun: see `benchmarks/README.md`."""
