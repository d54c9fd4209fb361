"""Who writes answers: an endpoint, a decoder that reads the passages, a decoder or reader over cached states."""
