"""GPT-2 as numbers: its sizes, tensors and tokenizer, and where they are had, verified."""
