"""Simulated nights: spectral twins of real ones, for the demo and the tests."""
