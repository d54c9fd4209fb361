"""Indexing with many workers: Ray actors read, cut and encode, the store gets everything in one commit."""
