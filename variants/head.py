"""Fit a two-class linear head on fixed embeddings by penalised logistic regression.

Source:
    Bishop 2006, Pattern Recognition and Machine Learning, 4.3.3 (iteratively reweighted least squares); the penalty
    is scikit-learn's `C`: 1/(2C) times the squared weights, the intercept free.
"""

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import BuildError


def fit_logistic(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    inverse_penalty: float = 1.0,
    iterations: int = 50,
    tolerance: float = 1e-8,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Newton's method on the penalised log-likelihood.

    Args:
        embeddings: One row a text, shape (n, d).
        labels: 0 or 1 a text, shape (n,).
        inverse_penalty: Weight of the data against the penalty, > 0.
        iterations: Most Newton steps.
        tolerance: Stop when no coefficient moves by more than this.

    Returns:
        Weights of shape (d, 2) and biases of shape (2,): two logits whose difference is the fitted one, so that
        softmax of the pair is the fitted probability.

    Raises:
        BuildError: A class is missing, or the fit does not converge.
    """
    if set(np.unique(labels)) != {0, 1}:
        raise BuildError(f"labels hold the classes {np.unique(labels).tolist()}, must hold 0 and 1")
    rows, width = embeddings.shape
    design = np.column_stack([embeddings.astype(np.float64), np.ones(rows)])
    ridge = np.full(width + 1, 1.0 / inverse_penalty)
    ridge[-1] = 0.0
    coefficients = np.zeros(width + 1)
    for _ in range(iterations):
        probability = 1.0 / (1.0 + np.exp(-(design @ coefficients)))
        gradient = design.T @ (probability - labels) + ridge * coefficients
        curvature = probability * (1.0 - probability)
        hessian = (design * curvature[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        coefficients -= step
        if np.abs(step).max() < tolerance:
            half = (coefficients / 2).astype(np.float32)
            return np.column_stack([-half[:-1], half[:-1]]), np.array([-half[-1], half[-1]])
    raise BuildError(f"the head did not converge in {iterations} steps: raise the penalty or the iterations")
