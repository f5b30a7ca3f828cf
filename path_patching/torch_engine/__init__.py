"""The engine in plain PyTorch: cached activations, and changes to them along a path set."""
