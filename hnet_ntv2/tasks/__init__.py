"""Labelled sequences: tables, labels, and the benchmark suites of the field."""
