"""Sentences other than the paper's year spans: other twins, other prompts, other abilities, plain sentences."""
