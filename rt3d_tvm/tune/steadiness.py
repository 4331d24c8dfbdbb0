"""Whether a device was left alone while kernels were compared on it: if not, a gain may be none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

# On a device that is left alone a default takes some per cent more or less at the end of a search
# than at its start, and its runs scatter by as much. From these factors on it was not.
DRIFT, SPREAD = 1.25, 1.5


def disturbance(
    first_s: float | None, default_s: Sequence[float], best_s: Sequence[float]
) -> str | None:
    """Why times are not to be trusted; None where nothing speaks against them.

    first_s: seconds of the default at the start of its search, None where it failed then.
    default_s, best_s: of its runs and of the best's at the end, in turns.
    """
    last_s = statistics.median(default_s)
    if first_s is not None and max(first_s, last_s) > DRIFT * min(first_s, last_s):
        return (
            f"its default took {1e3 * first_s:.3g} ms at the start of the search and "
            f"{1e3 * last_s:.3g} ms at its end"
        )
    for what, seconds in (("default", default_s), ("best", best_s)):
        low, high = (float(value) for value in np.percentile(seconds, (10, 90)))
        if high > SPREAD * low:
            return f"the runs of its {what} took {1e3 * low:.3g} to {1e3 * high:.3g} ms"
    return None
