"""Common base of the linear estimators: checks, arrangement of the examples, training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from asyncopt._checks import flag, one_of, real, real_or_none, whole
from asyncopt.sparse.blocks import BAD, Blocks, without_conflicts
from asyncopt.sparse.convergence import Patience, Rest, warn_unconverged
from asyncopt.sparse.custom_loss import check_loss
from asyncopt.sparse.examples import ColumnSums, Examples
from asyncopt.sparse.matrices import canonical, narrow, sound
from asyncopt.sparse.settings import (
    LEARNING_RATES,
    PENALTIES,
    SOLVERS,
    Settings,
    check_solver,
    syncs,
)
from asyncopt.sparse.starts import check_start
from asyncopt.sparse.state import State
from asyncopt.sparse.training import leaders, train
from asyncopt.warn import warn_caller

__all__ = ["LinearModel", "visits_once"]


def visits_once(self: LinearModel) -> bool:
    """True if `partial_fit` is available: solvers other than SGD need the same examples again."""
    if self.solver != "sgd":
        raise AttributeError(f"partial_fit: expected solver='sgd', got {self.solver!r}; call fit")
    return True


class LinearModel(BaseEstimator):  # type: ignore[misc]
    """Base of `LinearClassifier` and `LinearRegressor`."""

    _loss_names: tuple[str, ...]
    _sums: ColumnSums
    _states: list[State]
    coef_: Any

    def _check_parameters(self) -> None:
        check_loss(self.loss, self._loss_names)
        one_of("penalty", self.penalty, PENALTIES)
        one_of("learning_rate", self.learning_rate, tuple(LEARNING_RATES))
        one_of("solver", self.solver, SOLVERS)
        one_of("sync", self.sync, (None, *syncs()))
        real("alpha", self.alpha, 0)
        real("l1_ratio", self.l1_ratio, 0, 1)
        real("eta0", self.eta0, 0, open_=True)
        real("power_t", self.power_t, 0)
        whole("max_iter", self.max_iter, 1)
        whole("n_iter_no_change", self.n_iter_no_change, 1)
        whole("n_threads", self.n_threads, 1)
        flag("warm_start", self.warm_start)
        if not isinstance(self.verbose, (bool, np.bool_)):
            whole("verbose", self.verbose, 0)
        if not isinstance(self.average, (bool, np.bool_)):
            whole("average", self.average, 0)
        if self.learning_rate == "ftrl":
            one_of("average", bool(self.average), (False,), "with learning_rate='ftrl'")
        real_or_none("tol", self.tol, 0)
        if self.early_stopping:
            real("validation_fraction", self.validation_fraction, 0, 1, open_=True)
            if self.validation_fraction == 1:
                raise ValueError("validation_fraction: expected a number below 1, got 1")
        check_solver(self)

    def _check_no_early_stopping(self) -> None:
        if self.early_stopping:
            raise ValueError(
                "early_stopping: expected False in partial_fit, which trains on all examples once, "
                f"got {self.early_stopping!r}; set it to False, or call fit"
            )

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Context that restores the attributes if its body fails."""
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _check_data(self, X: Any, y: Any, **how: Any) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            sound("X", X),
            y,
            accept_sparse="csr",
            accept_large_sparse=True,
            dtype=[np.float32, np.float64],
            **how,
        )
        if X.shape[1] >= 2**31:
            raise ValueError(f"X: expected less than 2 ** 31 columns, got {X.shape[1]}")
        return canonical(X), y

    def _train(
        self,
        X: Any,
        targets: npt.NDArray[Any],
        weights: Any,
        passes: int,
        *,
        until: bool,
        afresh: bool,
        coef_init: Any = None,
        intercept_init: Any = None,
    ) -> None:
        """Train each output's model on the examples; if that fails, the models are not changed.

        Args:
            X: canonical.
            targets: shape (outputs, examples).
            weights: of the examples; None: all 1.
            passes: maximum number of passes.
            until: True: stop by ``tol`` and ``early_stopping``; False: make all passes.
            afresh: True: start from new models; False: from those of the last call.
            coef_init: initial `coef_`; None: determined by ``afresh``.
            intercept_init: initial `intercept_`, likewise.
        """
        targets = narrow("y", targets)
        if weights is not None:
            weights = narrow("sample_weight", weights)
        settings = Settings.of(self)
        sync = self.sync or "replicated"
        start = check_start(self, len(targets), X.shape[1], coef_init, intercept_init, afresh)
        if not afresh:
            self._check_goes_on(settings, sync)
        if afresh or start is not None:
            sums = ColumnSums(X.shape[1], bool(self.fit_intercept))
            states = [State(len(sums.counts)) for _ in targets]
        else:
            sums, states = copy.deepcopy((self._sums, self._states))
        if start is not None:
            for state, begin in zip(states, start, strict=True):
                state.begin(begin, settings)
        random = check_random_state(self.random_state)
        fitted, held_out = np.arange(X.shape[0]), None
        if until and self.early_stopping:
            fitted, held_out = self._hold_out(targets, random)
        order = random.permutation(fitted) if self.shuffle else fitted
        even = settings.step.endswith("scaled")
        sums.add(X if held_out is None else X[fitted], slow_intercept=even)
        order, blocks, threads = self._hand_out(X, order)
        examples = Examples(X, sums, order, self.n_threads)
        ends = []
        for output, (state, target) in enumerate(zip(states, targets, strict=True)):
            ends.append(
                train(
                    state,
                    examples,
                    sums,
                    target[order],
                    None if weights is None else weights[order],
                    settings,
                    blocks,
                    passes=passes,
                    patience=self._patience(X, target, held_out, state) if until else None,
                    random=random if self.shuffle else None,
                    threads=threads,
                    sync=sync,
                    report=self._reports(output, len(states)) if self.verbose else None,
                )
            )
        self._sums, self._states = sums, states
        self.n_iter_ = max(passes for passes, _ in ends)
        self.t_ = self._states[0].t
        self._publish()
        if not all(converged for _, converged in ends):
            warn_unconverged(self, passes, self._remedy())

    def _remedy(self) -> str:
        """Advice for reaching the optimum in fewer passes."""
        if self.solver == "sgd":
            return ""
        if not self.nesterov and self.loss != "hinge":
            return "scale the features, set nesterov=True, or "
        if self.solver == "dual" or self.penalty != "l2":  # "dual" supports only l2
            return "scale the features, or "
        return "scale the features, set solver='dual', or "

    def _reports(self, output: int, outputs: int) -> Callable[[int, State, float], None]:
        """A function that prints a line for a pass of one output."""
        label = "" if outputs == 1 else f"Output {output}, "

        def line(done: int, state: State, loss: float) -> None:
            every = state.coefficients
            coef = every[: self.n_features_in_]
            bias = every[-1] if self.fit_intercept else 0.0
            print(
                f"{label}Epoch {done}: Norm: {np.linalg.norm(coef):.2f}, "
                f"NNZs: {np.count_nonzero(coef)}, Bias: {bias:.6f}, T: {state.t}, "
                f"Avg. loss: {loss:.6f}",
                flush=True,
            )

        return line

    def _check_goes_on(self, settings: Settings, sync: str) -> None:
        """Raise ValueError unless training can continue from the state of the last call."""
        if self._sums.intercept != bool(self.fit_intercept):
            raise ValueError(
                f"fit_intercept: expected {self._sums.intercept} as in the first call, got "
                f"{self.fit_intercept!r}"
            )
        now = leaders(settings, self.n_threads, sync)
        for before in (state.leaders for state in self._states if state.t):
            if bool(before) != bool(now):
                raise ValueError(
                    "learning_rate: expected 'ftrl' in every call of partial_fit, and of fit with "
                    f"warm_start, or in none, got {self.learning_rate!r} with "
                    f"solver={self.solver!r}; call fit with warm_start=False"
                )
            if before != now:
                raise ValueError(
                    f"n_threads: expected examples to go to {before} of FTRL's models as in the "
                    f"calls before (sync='unshared': one for each thread), got {now}; call fit"
                )

    def _hand_out(
        self, X: Any, order: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], Blocks, int]:
        """The order of the examples, their blocks, and the number of threads."""
        blocks = Blocks.of(len(order), self.shuffle)
        if self.sync != "ordered":
            return order, blocks, self.n_threads
        if self.fit_intercept:
            why = "all examples share the intercept: fit_intercept=False lets threads work at once"
        else:
            order, blocks, together = without_conflicts(X, order, blocks, self.n_threads)
            if together <= BAD:
                return order, blocks, self.n_threads
            why = f"{together:.0%} of the entries hang together by columns that examples share"
        if self.n_threads > 1:
            warn_caller(f"sync='ordered': {why}; one thread trains. For speed take another sync")
        return order, blocks._replace(pieces=None), 1

    def _patience(
        self,
        X: Any,
        target: npt.NDArray[Any],
        held_out: npt.NDArray[np.int64] | None,
        before: State,
    ) -> Patience | Rest:
        if held_out is None and self.solver != "sgd":
            return Rest(self.tol, before.weights)
        if held_out is None:
            return Patience(
                lambda state, loss: -loss, self.tol, self.n_iter_no_change, keep_best=False
            )
        rows, expected = X[held_out], target[held_out]

        def score(state: State, loss: float) -> float:
            return self._score_held_out(self._predictions(rows, state), expected)

        return Patience(score, self.tol, self.n_iter_no_change, keep_best=True)

    def _hold_out(
        self, targets: npt.NDArray[Any], random: np.random.RandomState
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The examples to fit, in their order, and those to score on."""
        try:
            fitted, held_out = train_test_split(
                np.arange(targets.shape[1]),
                test_size=self.validation_fraction,
                random_state=random,
                stratify=self._strata(targets),
            )
        except ValueError as error:
            raise ValueError(f"validation_fraction: cannot hold out examples: {error}") from error
        return np.sort(fitted), held_out

    @staticmethod
    def _strata(targets: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """Labels to stratify the held-out examples by; None: no stratification."""
        return None

    def _score_held_out(self, predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
        raise NotImplementedError

    def _predictions(self, X: Any, state: State) -> npt.NDArray[np.float64]:
        features = self.n_features_in_
        by = state.coefficients
        return np.asarray(X @ by[:features] + (by[features] if self.fit_intercept else 0.0))

    def _publish(self) -> None:
        features = self.n_features_in_
        every = np.stack([state.coefficients for state in self._states])
        self.coef_ = self._shaped(np.ascontiguousarray(every[:, :features]))
        self.intercept_ = every[:, features] if self.fit_intercept else np.zeros(len(every))

    @staticmethod
    def _shaped(coef: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """`coef_` in its public shape, from a matrix with a row for each output."""
        return coef

    def sparsify(self) -> Self:
        """Store `coef_` as a ``scipy.sparse.csr_array`` of shape (outputs, features).

        Predictions stay the same. This saves memory, also in a pickle, if more than half of the
        weights are zero, as with the l1 penalty. Training makes `coef_` dense again.
        """
        check_is_fitted(self, "coef_")
        self.coef_ = sparse.csr_array(self._coef_rows())
        return self

    def densify(self) -> Self:
        """Undo `sparsify`: store `coef_` as an array; nothing changes if it is one."""
        check_is_fitted(self, "coef_")
        if sparse.issparse(self.coef_):
            self.coef_ = self._shaped(self.coef_.toarray())
        return self

    def _coef_rows(self) -> Any:
        """`coef_`, dense or sparse, with a row for each output."""
        return self.coef_.reshape(-1, self.n_features_in_)

    def _decisions(self, X: Any) -> npt.NDArray[np.float64]:
        """Every output's predictions, shape (examples, outputs)."""
        check_is_fitted(self, "coef_")
        X = validate_data(
            self,
            sound("X", X),
            accept_sparse="csr",
            accept_large_sparse=True,
            dtype=[np.float32, np.float64],
            reset=False,
        )
        products = safe_sparse_dot(X, self._coef_rows().T, dense_output=True)
        return np.asarray(products + self.intercept_)

    def _weights(self, X: Any, sample_weight: Any) -> npt.NDArray[np.float64] | None:
        if sample_weight is None:
            return None
        weights: npt.NDArray[np.float64] = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        return weights

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.non_deterministic = self.n_threads != 1 and self.sync != "ordered"
        return tags
