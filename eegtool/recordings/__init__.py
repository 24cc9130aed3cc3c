"""Recordings of any format: the wanted channels in µV on one time base."""
