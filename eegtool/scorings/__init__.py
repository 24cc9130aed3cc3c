"""Readers of scorings, one file per kind: from a path to a `Scoring`, knowing nothing of the recording."""
