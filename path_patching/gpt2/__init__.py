"""GPT-2 as numbers: its sizes, tensors and tokenizer, and where they are had, verified."""

from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"  # the stand-in, the tokenizer's files, the published hashes
