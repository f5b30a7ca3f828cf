"""Choices and defaults that command lines show before anything slow is imported."""

from __future__ import annotations

ENGINES = ("auto", "rust_circuit", "torch", "reference")
LEAST_GB, MOST_GB = 1e-9, 1e6  # of memory; with the least, each sentence is a batch

CIRCUITS_OF_MODELS = 100  # random circuits for each circuit found, in `circuits.across_models`

# Shares of the metric's clean value, for `circuits.search` and for `circuits.validation.stability`
THRESHOLDS = (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
STABILITY_THRESHOLDS = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
FOLLOWED_FROM = 0.01  # searches for stability with lower thresholds stop at END
