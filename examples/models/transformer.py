"""A small language model in plain jax.numpy: tokens in, the next token's logits out.

It serves to try Berth out: `berth model analyse examples/models/transformer.py:forward`. The weights are drawn from a
fixed seed, so it says nothing sensible, but it does the work of a real decoder: embeddings, causal attention, a
gated feed-forward part and tied logits, with `lax.scan` over the layers. About 4.9 MB of weights in bfloat16.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

VOCABULARY, WIDTH, HEADS, LAYERS, HIDDEN, LENGTH = 2048, 192, 6, 4, 512, 64
BATCH = 4
SEED = 20


@cache
def weights() -> dict[str, np.ndarray]:
    """One array a kind, the layers along the first axis."""
    random = np.random.default_rng(SEED)

    def drawn(*shape: int) -> np.ndarray:
        scale = shape[-2] ** -0.5
        return np.asarray(random.standard_normal(shape, dtype=np.float32) * scale, dtype=jnp.bfloat16)

    return {
        "embedding": drawn(VOCABULARY, WIDTH),
        "position": drawn(LENGTH, WIDTH),
        "query_key_value": drawn(LAYERS, WIDTH, 3 * WIDTH),
        "out": drawn(LAYERS, WIDTH, WIDTH),
        "up": drawn(LAYERS, WIDTH, 2 * HIDDEN),
        "down": drawn(LAYERS, HIDDEN, WIDTH),
    }


def normalised(values: jax.Array) -> jax.Array:
    wide = values.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6)).astype(values.dtype)


def layer(mask: jax.Array, values: jax.Array, part: dict[str, jax.Array]) -> tuple[jax.Array, None]:
    """`values`: [batch, length, width]."""
    batch, length, _ = values.shape
    mixed = (normalised(values) @ part["query_key_value"]).reshape(batch, length, 3, HEADS, WIDTH // HEADS)
    query, key, value = (mixed[:, :, which] for which in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32) * (WIDTH // HEADS) ** -0.5
    chances = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1).astype(values.dtype)
    values = values + jnp.einsum("bhqk,bkhd->bqhd", chances, value).reshape(batch, length, WIDTH) @ part["out"]
    gate, up = jnp.split(normalised(values) @ part["up"], 2, axis=-1)
    return values + (jax.nn.silu(gate) * up) @ part["down"], None


def forward(tokens: jax.Array) -> jax.Array:
    """`tokens`: int32 [batch, length up to 64], each below 2048. The next token's logits: float32 [batch, 2048]."""
    held = {name: jnp.asarray(array) for name, array in weights().items()}
    length = tokens.shape[1]
    values = held.pop("embedding")[tokens] + held.pop("position")[:length]
    mask = jnp.tril(jnp.ones((length, length), dtype=bool))
    values, _ = jax.lax.scan(partial(layer, mask), values, held)
    return (normalised(values[:, -1]) @ jnp.asarray(weights()["embedding"]).T).astype(jnp.float32)


def example_arguments() -> tuple[jax.ShapeDtypeStruct, ...]:
    """What `forward` is exported for, where nothing else is said."""
    return (jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32),)
