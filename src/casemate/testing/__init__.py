"""Fakes, simulators and Hypothesis strategies, shipped for others to use."""
