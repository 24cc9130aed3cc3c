"""Figures of the answers that were read. Pure: epochs in, numbers out."""
