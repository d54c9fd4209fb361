"""From the hidden states of a packed batch to one vector per sequence."""

from .fused import PoolMode, pool, pool_twin
from .latent import LatentWeights, latent_attention, latent_keys_values, pool_latent
from .packed import pool_edge, pool_max, pool_mean
from .splade import max_logits, max_logits_twin, splade, splade_weights

__all__ = [
    "LatentWeights",
    "PoolMode",
    "latent_attention",
    "latent_keys_values",
    "max_logits",
    "max_logits_twin",
    "pool",
    "pool_edge",
    "pool_latent",
    "pool_max",
    "pool_mean",
    "pool_twin",
    "splade",
    "splade_weights",
]
