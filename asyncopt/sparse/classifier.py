"""``LinearClassifier``."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets

from asyncopt.sparse.base import LinearModel, visits_once
from asyncopt.sparse.custom_loss import CustomLoss

__all__ = ["LinearClassifier"]


def _gives_probabilities(self: LinearClassifier) -> bool:
    if self.loss not in ("log_loss", "modified_huber"):
        raise AttributeError(
            "predict_proba: expected loss='log_loss' or 'modified_huber', which give "
            f"probabilities; got {self.loss!r}"
        )
    return True


class LinearClassifier(ClassifierMixin, LinearModel):  # type: ignore[misc]
    """Linear classification by stochastic steps on sparse data, on several threads.

    Minimizes the mean loss of the examples plus ``alpha`` times the penalty, which does not include
    the intercept. Several classes are trained one versus rest. An example's step applies the
    penalty to the columns that it has, in inverse proportion to how often they occur (Niu et al.,
    "Hogwild!", arXiv 1106.5730), as a proximal step (Duchi and Singer, JMLR 2009).

    Solvers other than ``"sgd"`` have no learning rate; they converge to the optimum for the
    examples in float32, or warn. Their steps are float32 differences from float64 weights, which
    are updated every 16 passes (``"dual"``: 64, ``"svrg"``: 3). Therefore `coef_` can be more
    accurate than float32 weights: with ``tol=1e-10`` it is within 1e-6 of scikit-learn's in our
    tests. They keep 28 bytes for each example (``"dual"``: 32), and need the same examples in every
    pass (there is no ``partial_fit``).

    Args:
        loss: ``"log_loss"``, ``"hinge"``, ``"squared_hinge"``, ``"modified_huber"`` (squared hinge
            that is linear below a margin of -1, so it is robust to outliers; Zhang, ICML 2004),
            ``"perceptron"`` (hinge with a margin of 0) or a `CustomLoss`.
        solver: ``"sgd"``: stochastic gradient descent; ``"dual"``: coordinate ascent in the dual
            problem (PASSCoDe, Hsieh et al., ICML 2015), for built-in losses except
            ``"perceptron"``, and the l2 penalty, which then includes the intercept, as in
            scikit-learn's LinearSVC; ``"saga"`` (Leblond et al., AISTATS 2017; Pedregosa et al.,
            NIPS 2017) and ``"svrg"`` (Johnson and Zhang, NIPS 2013; a third of its passes only
            compute the full gradient), for smooth losses, so neither ``"hinge"`` nor
            ``"perceptron"``, and all penalties. A second thread made ``"dual"`` with
            ``"log_loss"`` faster on data such as text; in other cases one thread was faster.
        nesterov: Nesterov's momentum for ``"dual"``, ``"saga"`` and ``"svrg"``: each pass (three of
            ``"svrg"``) is on the objective with a pull to a center, which then moves beyond where
            the pass ended (accelerated proximal points: "Catalyst", Lin et al., arXiv 1506.02186).
            Momentum restarts with a stronger pull if the objective rises by 1% above its minimum
            since the last restart.
            Needs a fraction of the passes if ``alpha`` times the number of examples is far below
            the curvature of an example's loss (its squared norm times 0.25 for ``"log_loss"``, 2
            for ``"squared_hinge"``), and changes nothing if it is above. For smooth losses, so not
            ``"hinge"``.
        penalty: ``"l2"`` (half the squared norm), ``"l1"``, ``"elasticnet"`` or None.
        alpha: weight of the penalty.
        l1_ratio: the share of ``"l1"`` in ``"elasticnet"``.
        learning_rate: of ``"sgd"``. ``"adagrad"``: each column's own (Duchi et al., JMLR 2011).
            ``"ftrl"``: each column's own, and weights that the l1 penalty keeps exactly 0
            (FTRL-Proximal, McMahan et al., KDD 2013, with beta = 1 and the penalty counted once
            for each example so far). The others are one rate for all columns, after t examples:
            ``"constant"``: ``eta0``; ``"optimal"``: ``1 / (alpha * (t + t0))`` with
            ``t0 = alpha ** -0.75``, whatever ``eta0`` is; ``"invscaling"``:
            ``eta0 / (t + 1) ** power_t``; ``"adaptive"``: ``eta0``, which is divided by 5 where
            ``tol`` would stop the fit, while it is above 1e-6; ``"inverse"``:
            ``eta0 / (1 + alpha * eta0 * t)`` (Bottou, 2012). With these rates the intercept learns
            like a column of typical values, if those are below 1; scikit-learn also slows it down.
        eta0: the initial learning rate. scikit-learn's default is 0.01, for rates that are the
            same for all columns.
        power_t: the exponent of ``"invscaling"``, at least 0.
        average: the model is the mean of the weights after each example (Polyak and Juditsky,
            1992), from the first one or, given a number, from that one on; for ``"sgd"`` except
            with ``"ftrl"``. No change is then lost under ``"hogwild"`` and ``"replicated"``.
        max_iter: largest number of passes over the examples. A fit that reaches it before ``tol``
            is met warns.
        tol: stop after ``n_iter_no_change`` passes in which the mean loss did not fall by this;
            None: make ``max_iter`` passes, and do not warn. Solvers other than ``"sgd"``: stop
            after a pass in which no weight moved by more than this share of the largest one, and
            the duality gap, computed in float64, is at most this share of the objective; then the
            objective is within ``tol`` of the minimum. For weights that the l2 penalty does not
            bound (an intercept, all without l2), the gap is estimated by their gradient times the
            largest weight. An objective near 0 needs a gap of ``tol ** 2`` times that of weights
            of 0.
        n_iter_no_change: passes; only for ``"sgd"``.
        early_stopping: hold out examples, stop by the accuracy on them instead of by the loss, and
            keep the model of the best pass. With ``tol=None`` all passes are made, and the best
            model is kept. Not in `partial_fit`.
        validation_fraction: share of the examples to hold out.
        shuffle: shuffle the examples once, and blocks of at most 512 before every pass.
        fit_intercept: False: the intercept is 0.
        class_weight: weights of the examples of each class, a dict; ``"balanced"``: inverse to
            their number; None: all 1.
        warm_start: `fit` continues from the model of the last call, whose classes and features
            must be the same: from its weights and, under ``"sgd"``, with its learning rates and
            `t_`; with ``shuffle=False`` two fits then equal one longer fit. (scikit-learn keeps
            only the weights.) Not for ``"dual"``.
        verbose: above 0: print the norm of the weights, how many are not 0, the intercept, the
            examples seen and the mean loss after each pass.
        random_state: seed or generator. With one thread, the result is reproducible bit for bit.
        n_threads: number of training threads.
        sync: how threads share the weights, one of `asyncopt.sparse.syncs`: ``"replicated"``
            (per-thread copies of the most frequent columns, merged more often for more frequent
            ones), ``"hogwild"``, ``"atomic"``, ``"mutex"``, ``"round-robin"`` (derivatives in
            parallel, weight changes in turn; Langford et al., NIPS 2009), ``"ordered"`` (the same
            bits for any number of threads: only examples without a common column run in parallel,
            in blocks sorted for that; Cyclades, Pan et al., NIPS 2016; if most examples share a
            column, as with an intercept, one thread trains, with a RuntimeWarning),
            ``"unshared"`` (one model per thread, averaged after each pass).
            None: ``"replicated"``. Solvers other than ``"sgd"`` then have copies of all columns,
            because lost updates, as under ``"hogwild"``, would keep them slightly away from the
            optimum; if all examples have most columns, several threads need more passes than one.

    Attributes:
        coef_: float64 of shape (1 or classes, features).
        intercept_: float64 of shape (1 or classes,).
        classes_: the labels, sorted.
        n_iter_: passes made, the most of any class.
        n_features_in_: columns of the examples.
        t_: examples seen by each class's model.
    """

    _loss_names = ("log_loss", "hinge", "squared_hinge", "modified_huber", "perceptron")

    def __init__(
        self,
        loss: str | CustomLoss = "log_loss",
        *,
        solver: str = "sgd",
        nesterov: bool = False,
        penalty: str | None = "l2",
        alpha: float = 1e-4,
        l1_ratio: float = 0.15,
        learning_rate: str = "adagrad",
        eta0: float = 0.1,
        power_t: float = 0.5,
        average: bool | int = False,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        n_iter_no_change: int = 5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        shuffle: bool = True,
        fit_intercept: bool = True,
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        random_state: Any = None,
        n_threads: int = 1,
        sync: str | None = None,
    ) -> None:
        self.loss = loss
        self.solver = solver
        self.nesterov = nesterov
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.average = average
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.shuffle = shuffle
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.n_threads = n_threads
        self.sync = sync

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        coef_init: Any = None,
        intercept_init: Any = None,
    ) -> Self:
        """Train from the beginning or, with ``warm_start``, from the last call's model.

        Args:
            X: sparse or dense, shape (examples, features); converted to float32.
            y: labels, shape (examples,).
            sample_weight: shape (examples,), not negative; multiplies the examples' losses.
            coef_init: initial `coef_`, of its shape or, for two classes, (features,); None: zeros.
                Learning rates and `t_` are reset. Not for the solver ``"dual"``.
            intercept_init: initial `intercept_`, likewise.

        Raises:
            ValueError: an argument is wrong, or the weights did not stay finite.

        Warns:
            ConvergenceWarning: ``max_iter`` passes did not meet ``tol``. Heavy examples (rows or
                weights far above the others) make the steps of ``"saga"`` and ``"svrg"`` short:
                scale them, or use ``"dual"`` or ``nesterov=True``.
        """
        self._check_parameters()
        again = self.warm_start and hasattr(self, "_states")
        with self._all_or_nothing():
            X, y = self._check_data(X, y, reset=not again)
            check_classification_targets(y)
            classes = np.unique(y)
            if again and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"y: expected the labels of the last call, {self.classes_}, with "
                    f"warm_start=True, got {classes}; set warm_start=False"
                )
            self._set_classes("y", classes)
            self._train_classes(
                X,
                y,
                sample_weight,
                self.max_iter,
                until=True,
                afresh=not again,
                coef_init=coef_init,
                intercept_init=intercept_init,
            )
        return self

    @available_if(visits_once)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train on, with one pass over these examples.

        Args:
            X: as in `fit`.
            y: as in `fit`.
            classes: all labels that may occur; needed in the first call.
            sample_weight: as in `fit`.

        Raises:
            ValueError: as in `fit`; a label is not one of the classes; ``early_stopping=True``.
        """
        self._check_parameters()
        self._check_no_early_stopping()
        first = not hasattr(self, "_states")
        with self._all_or_nothing():
            X, y = self._check_data(X, y, reset=first)
            check_classification_targets(y)
            if first and classes is None:
                raise ValueError("classes: expected all labels in the first call, got None")
            if (
                classes is not None
                and not first
                and not np.array_equal(self.classes_, np.unique(classes))
            ):
                raise ValueError(
                    f"classes: expected those of the first call, {self.classes_}, got {classes}"
                )
            known = np.unique(classes) if first else self.classes_
            if strangers := set(np.unique(y).tolist()) - set(known.tolist()):
                raise ValueError(f"y: expected labels among {known}, got {sorted(strangers)}")
            if self.class_weight == "balanced":
                raise ValueError(
                    "class_weight: expected a dict or None, for 'balanced' needs all labels at "
                    "once; compute it with sklearn.utils.compute_class_weight"
                )
            if first:
                self._set_classes("classes", known)
            self._train_classes(X, y, sample_weight, 1, until=False, afresh=first)
        return self

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Signed distances, in units of the loss; shape (examples,), or (examples, classes)."""
        decisions = self._decisions(X)
        return decisions[:, 0] if decisions.shape[1] == 1 else decisions

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The labels with the greatest decision values, shape (examples,)."""
        decisions = self._decisions(X)
        if decisions.shape[1] == 1:
            return np.asarray(self.classes_[(decisions[:, 0] > 0).astype(int)])
        return np.asarray(self.classes_[decisions.argmax(axis=1)])

    @available_if(_gives_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities, shape (examples, classes); one versus rest for more than two classes.

        For ``"modified_huber"`` they are ``(clip(decision_function(X), -1, 1) + 1) / 2`` (Zhang,
        JMLR 2002, appendix B), which may be exactly 0 or 1.
        """
        decisions = self._decisions(X)
        if self.loss == "log_loss":
            positive = 0.5 * (1 + np.tanh(decisions / 2))
        else:
            positive = (np.clip(decisions, -1, 1) + 1) / 2
        if positive.shape[1] == 1:
            return np.hstack([1 - positive, positive])
        total = positive.sum(axis=1, keepdims=True)
        even = np.full_like(positive, 1 / positive.shape[1])
        return np.asarray(np.divide(positive, total, out=even, where=total > 0))

    @available_if(_gives_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Logarithms of `predict_proba`; minus infinity where that is 0."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def _set_classes(self, name: str, classes: npt.NDArray[Any]) -> None:
        if len(classes) < 2:
            raise ValueError(
                f"{name}: expected labels of two classes or more, got {len(classes)} class"
            )
        self.classes_ = classes

    def _train_classes(self, X: Any, y: Any, sample_weight: Any, passes: int, **how: Any) -> None:
        weights = self._weights(X, sample_weight)
        if self.class_weight is not None:
            of_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            if not (np.isfinite(of_class) & (of_class >= 0)).all():
                raise ValueError(
                    f"class_weight: expected finite numbers of at least 0, got {self.class_weight}"
                )
            factors = of_class[np.searchsorted(self.classes_, y)]
            weights = factors if weights is None else weights * factors
        positive = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        targets = np.where(y == positive[:, None], 1.0, -1.0)
        self._train(X, targets, weights, passes, **how)

    @staticmethod
    def _strata(targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(targets.argmax(axis=0)) if len(targets) > 1 else targets[0]

    def _score_held_out(self, predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
        return float(np.mean((predictions > 0) == (targets > 0)))
