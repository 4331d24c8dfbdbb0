"""Random weights of convolutions: dense, pruned by each scheme, with rows and blocks left empty."""

from __future__ import annotations

from random import Random

import numpy as np

GROUPS = ((4, 4), (8, 4), (16, 4), (32, 4), (3, 2), (8, 8))


def normal(rng: Random, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    generator = np.random.default_rng(rng.getrandbits(32))
    return generator.standard_normal(shape, dtype="float32")


def conv_weight(rng: Random, *shape: int) -> np.ndarray:
    """A weight whose result is as large as its input, dense in one case of three."""
    weight = normal(rng, *shape)
    kind = rng.choice(
        ("dense", "dense", "dense", "kgs", "kgs", "vanilla", "filter", "rows", "none")
    )
    if kind == "none" and rng.random() < 0.5:  # a layer that is pruned whole
        weight[:] = 0
    elif kind == "rows":
        weight[_some(rng, shape[0])] = 0
        weight[:, _some(rng, shape[1])] = 0
    elif kind != "dense":
        weight *= mask(rng, kind, shape)
    kept = max(1, int(np.count_nonzero(weight)) // shape[0])
    return weight / np.float32(np.sqrt(kept))


def mask(rng: Random, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Ones and zeros of a pruning scheme: kgs locations, vanilla groups, or whole filters."""
    g_m, g_n = rng.choice(GROUPS)
    blocks, density = [-(-shape[0] // g_m), -(-shape[1] // g_n)], rng.choice((0.1, 0.3, 0.5, 0.8))
    generator = np.random.default_rng(rng.getrandbits(32))
    if kind == "filter":
        kept = generator.random(shape[0]) < density
        return np.broadcast_to(kept.reshape(-1, *[1] * (len(shape) - 1)), shape)
    cells = (*blocks, *(shape[2:] if kind == "kgs" else [1] * len(shape[2:])))
    kept = generator.random(cells) < density
    if rng.random() < 0.2:  # a row block with nothing in it
        kept[rng.randrange(blocks[0])] = False
    wide = kept.repeat(g_m, 0).repeat(g_n, 1)[: shape[0], : shape[1]]
    return np.broadcast_to(wide, shape)


def _some(rng: Random, count: int) -> list[int]:
    return sorted(rng.sample(range(count), rng.randint(0, count - 1)))
