"""The algorithms that prune in training, by their names."""

from __future__ import annotations

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.heuristic import Heuristic
from rt3d_tvm.prune.regularization import Regularization
from rt3d_tvm.prune.reweighted import Reweighted

Algorithm = Heuristic | Regularization | Reweighted
ALGORITHMS: dict[str, type] = {kind.name: kind for kind in (Heuristic, Regularization, Reweighted)}


def algorithm_of(algorithm: Algorithm | str) -> Algorithm:
    """The algorithm that is meant by one, or by its name; InputError for another value."""
    if isinstance(algorithm, Algorithm):
        return algorithm
    if algorithm not in ALGORITHMS:
        raise InputError(f"algorithm {algorithm}: {', '.join(ALGORITHMS)} are accepted")
    return ALGORITHMS[algorithm]()
