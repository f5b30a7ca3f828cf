"""GPT-2's sizes, tensors and tokenizer, and getting them, verified."""

from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"  # the stand-in, the tokenizer's files, the published hashes
