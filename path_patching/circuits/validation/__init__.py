"""Is it a circuit? The tests that the field asks of a circuit, one a module. They work for any task."""
