"""Minimises a penalised negative log-likelihood by L-BFGS, in coordinates of roughly equal curvature."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

STEPS = 500  # at most; it stops much earlier
SLOPE = 1e-3  # stops at this gradient: with curvatures of 1, this many standard errors from the minimum


def minimum(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    curvature: np.ndarray,
    not_negative: int = 0,
) -> np.ndarray:
    """The parameters that minimise `loss`, which returns (value, gradient), from `start` [parameters].

    `curvature`: approximate second derivatives of the loss. Parameters are scaled by their square roots,
    so that a strong ridge on one does not slow down all others. The first `not_negative` parameters are
    bounded below by 0.
    """
    scale = 1 / np.sqrt(curvature)

    def scaled(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = loss(x * scale)
        return value, slope * scale

    bounds = [(0, None)] * not_negative + [(None, None)] * (len(start) - not_negative)
    options = {"maxiter": STEPS, "gtol": SLOPE, "ftol": 1e-11}
    found = minimize(scaled, start / scale, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    return found.x * scale
