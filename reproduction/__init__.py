"""Runs and what they leave, figures, and the paper's numbers beside the measured ones."""
