"""The engine on rust_circuit: a path set as a circuit."""
