"""Reasons: facts measured in an epoch, their words, claims read back and held against the facts."""
