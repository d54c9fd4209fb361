"""A reader of cached states: finds the words of a passage that answer a question."""
