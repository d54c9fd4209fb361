"""From the hidden states of a packed batch to one vector per sequence."""

from .latent import LatentWeights, latent_attention, latent_keys_values, pool_latent
from .packed import pool_edge, pool_max, pool_mean
from .splade import max_logits, splade_weights

__all__ = [
    "LatentWeights",
    "latent_attention",
    "latent_keys_values",
    "max_logits",
    "pool_edge",
    "pool_latent",
    "pool_max",
    "pool_mean",
    "splade_weights",
]
