"""Is it a circuit? What the field asks of a claimed circuit, a test a module; none of them knows what the task is."""
