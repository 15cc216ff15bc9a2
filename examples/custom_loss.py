"""Fit a linear model with a loss of your own, compiled by numba into the engine's loop.

python examples/custom_loss.py    # needs numba: pip install "asyncopt[numba]"
"""

import math

import numpy as np
from sklearn.linear_model import Ridge

from asyncopt.sparse import CustomLoss, LinearRegressor


def log_cosh(prediction: float, target: float) -> tuple[float, float]:
    """Loss and its derivative: quadratic near 0, linear far away, so outliers weigh little."""
    error = prediction - target
    size = abs(error)
    return size + math.log1p(math.exp(-2 * size)) - math.log(2), math.tanh(error)


if __name__ == "__main__":
    random = np.random.default_rng(0)
    X = random.standard_normal((5_000, 20))
    truth = random.standard_normal(20)
    y = X @ truth + 0.1 * random.standard_normal(5_000)
    y[::10] += 50  # outliers
    robust = LinearRegressor(loss=CustomLoss(log_cosh, curvature=1.0), max_iter=50, n_threads=2)
    for name, model in (("log-cosh", robust), ("squared", Ridge())):
        error = np.abs(model.fit(X, y).coef_ - truth).max()
        print(f"{name}: largest error of a coefficient {error:.3f}")
