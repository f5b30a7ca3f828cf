"""What else is asked of a model beside year spans: other twins, other prompts, other abilities, plain sentences."""
