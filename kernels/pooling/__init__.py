"""From the hidden states of a packed batch to one vector per sequence."""

from .packed import pool_edge, pool_max, pool_mean

__all__ = ["pool_edge", "pool_max", "pool_mean"]
