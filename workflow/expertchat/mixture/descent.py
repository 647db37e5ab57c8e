"""The minimum of a penalised log-likelihood, by L-BFGS on coordinates of about equal curvature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

STEPS = 500  # at most; it ends much earlier
SLOPE = 1e-3  # at which it ends: where curvatures are 1, as near to the minimum in standard errors


def minimum(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    curvature: np.ndarray,
    not_negative: int = 0,
) -> np.ndarray:
    """Where `loss`, which gives its value and slope, is least; found from `start`, [parameters].

    `curvature`: about the loss's second derivatives. Dividing by their roots keeps a strong ridge on
    one parameter from slowing all others. The first `not_negative` parameters stay at 0 or above.
    """
    scale = 1 / np.sqrt(curvature)

    def scaled(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = loss(x * scale)
        return value, slope * scale

    bounds = [(0, None)] * not_negative + [(None, None)] * (len(start) - not_negative)
    options = {"maxiter": STEPS, "gtol": SLOPE, "ftol": 1e-11}
    found = minimize(scaled, start / scale, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    return found.x * scale
