"""Types of the compiled engine."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from asyncopt.optim.stepper import How

class KernelInfo(TypedDict):
    rule: str
    param_dtype: str
    state_dtype: str
    hyper: tuple[str, ...]
    slots: tuple[str, ...]
    row_slots: int
    scalars: tuple[str, ...]

class Contract(TypedDict):
    name: str
    may_lose: bool
    may_tear: bool
    may_block: bool
    replica: bool
    in_parts: bool

class WorkerCounts(TypedDict):
    slot: int
    process: int
    pushes: int
    retries: int
    lock_waits: int
    lock_wait_ns: int
    lost_updates: int
    lost_state_updates: int
    skipped_nonfinite: int
    repairs: int
    unfinished: int
    staleness_sum: int
    staleness: list[int]

class WordCosts(TypedDict):  # seconds
    transfer: float
    lock: float
    sleep: float
    wake: float
    wake_call: float

class LineCosts(TypedDict):  # seconds per cache line; own, remote
    update: tuple[float, float]
    exchange: tuple[float, float]
    copy: tuple[float, float]
    snapshot: tuple[float, float]
    check: float

class SeatInfo(TypedDict):
    pid: int
    incarnation: int
    progress: int
    loss: float
    phase: str

class Positions(TypedDict):
    workers: int
    turns: int
    rounds: list[list[int]]  # round, next batch
    claims: list[Any]  # lists of rank, round, "held" | "done" | "left", batch

PARALLEL_FROM: int
MAX_WORKERS: int
MAX_STRIPES: int
CACHE_LINE: int
DEVICE_LAYOUT: int
PHASES: tuple[str, ...]
LINEAR_LANES: int

def kernels() -> list[KernelInfo]: ...
def syncs() -> list[Contract]: ...
def isas() -> tuple[str, ...]: ...
def isa() -> str: ...
def staleness_floors() -> list[int]: ...
def journal_bytes(kernel: int, rows: int) -> int: ...
def open_journal(at: int, bytes: int, at_rest: bool) -> None: ...
def expect_forks() -> None: ...
def prefer_huge_pages(at: int, bytes: int) -> None: ...
def probe_words(processors: tuple[int, int]) -> WordCosts: ...
def probe_lines(
    *,
    processors: tuple[int, int],
    lines: int,
    width: int,
    starts: npt.NDArray[np.int64],
) -> LineCosts: ...

class SegmentConfig:
    def __init__(
        self,
        *,
        sync: str,
        workers: int,
        data_bytes: int,
        param_bytes: int,
        lock_timeout: float,
        layout_hash: int,
    ) -> None: ...
    @property
    def bytes_needed(self) -> int: ...

class Segment:
    @staticmethod
    def create(address: int, nbytes: int, config: SegmentConfig, owner: object) -> Segment: ...
    @staticmethod
    def attach(address: int, nbytes: int, owner: object) -> Segment: ...
    def claim_worker(self) -> int: ...
    def release_worker(self, worker: int, /) -> None: ...
    def pull_mark(self, worker: int, version: int | None = None) -> None: ...
    def pulled(self, worker: int, /) -> int: ...
    def restore_version(self, version: int, /) -> None: ...
    def ledger(self) -> list[WorkerCounts]: ...
    def owned_slots(self) -> list[int]: ...
    @property
    def data_offset(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def workers(self) -> int: ...
    @property
    def sync(self) -> str: ...
    @property
    def layout_hash(self) -> int: ...
    @property
    def lock_timeout(self) -> float: ...

class Plan:
    STALE: ClassVar[int]
    ODD_GRADIENT: ClassVar[int]
    SKIPPED: ClassVar[int]
    def __init__(
        self, segment: Segment | None, worker: int, replica: bool, watched: bool
    ) -> None: ...
    @staticmethod
    def on_device(backend: int, type: int, id: int, atomic: bool) -> Plan: ...
    def skipped(self) -> int: ...
    def add_group(self) -> None: ...
    def add_tensor(
        self,
        kernel: int,
        param: torch.Tensor,
        local: torch.Tensor,
        state: dict[str, object] | None,
        entry_names: tuple[str, ...],
        entries: tuple[object, ...],
        param_at: int,
        slots_at: list[int],
        scalars_at: int,
        journal_at: int | None,
    ) -> None: ...
    def step(
        self,
        how: How,
        grads: list[torch.Tensor | None] | None,
        /,
    ) -> int: ...
    def step_scaled(
        self,
        how: How,
        grads: list[torch.Tensor | None] | None,
        grad_scale: torch.Tensor | None,
        found_inf: torch.Tensor | None,
        /,
    ) -> int: ...
    def step_rows(
        self,
        how: How,
        index: int,
        rows: int,
        row_count: int,
        values: int,
        /,
    ) -> int: ...
    def catch_up(
        self,
        how: How,
        index: int | None,
        rows: tuple[int, int] | None,
        /,
    ) -> int: ...
    def keep_gradients(self) -> None: ...
    def has_gradients(
        self,
        groups: list[dict[str, object]],
        grads: list[torch.Tensor | None],
        addresses: list[int],
        /,
    ) -> bool: ...
    def is_finite(self, grads: list[torch.Tensor | None], /) -> bool: ...
    def push(
        self,
        how: How,
        grads: list[torch.Tensor | None],
        part: str,
        writes: Sequence[tuple[int, int, int]],
        /,
    ) -> int: ...
    def publish(self, writes: Sequence[tuple[int, int, int]] = ...) -> bool: ...
    def continue_from(self, before: Plan, /) -> None: ...
    def follow_memory(self) -> None: ...
    def pull(self) -> int: ...
    def pull_to(self, indices: list[int], addresses: list[int], /) -> int: ...

class Versions:
    def __init__(self, tensors: list[torch.Tensor]) -> None: ...
    def note(self) -> None: ...
    def written(self) -> list[int]: ...
    def first_written(self, indices: list[int]) -> int | None: ...

class Board:
    @staticmethod
    def bytes_needed(workers: int, /) -> int: ...
    @staticmethod
    def create(address: int, nbytes: int, workers: int, owner: object) -> Board: ...
    @staticmethod
    def attach(address: int, nbytes: int, owner: object) -> Board: ...
    @property
    def workers(self) -> int: ...
    def take(self, rank: int, round: int, total: int, keep: bool = False, /) -> int: ...
    def take_static(
        self, rank: int, round: int, total: int, stride: int, keep: bool = False, /
    ) -> int: ...
    def finish(self, rank: int, round: int, /) -> None: ...
    def done(self, rank: int, round: int, /) -> None: ...
    def agree(self, round: int, epoch: int, digest: int, /) -> bool: ...
    def abandon(self, rank: int, /) -> None: ...
    def positions(self) -> Positions: ...
    def restore(self, positions: Positions, /) -> None: ...
    def begin(self, rank: int, max_staleness: int | None, timeout: float, /) -> int | None: ...
    def admit(self, rank: int, timeout: float, /) -> bool: ...
    def end(self, rank: int, /) -> None: ...
    def leave(self, rank: int, /) -> None: ...
    @property
    def turns(self) -> int: ...
    @property
    def in_turn(self) -> list[int]: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    @property
    def paused(self) -> bool: ...
    def park(self, rank: int, timeout: float, /) -> bool: ...
    @property
    def parked(self) -> list[int]: ...
    def beat(self, rank: int, /) -> None: ...
    def log(self, rank: int, loss: float, /) -> None: ...
    def mark(self, rank: int, phase: int, ns: int | None = None, /) -> None: ...
    def seat(self, rank: int, /) -> SeatInfo: ...
    def events(self, rank: int, after: int, /) -> tuple[list[tuple[int, int, str]], int]: ...

def linear_kernels() -> list[tuple[str, str, float]]: ...  # loss, step, its greatest curvature
def linear_syncs() -> tuple[str, ...]: ...
def count_columns(
    begin: npt.NDArray[np.int64],
    columns: npt.NDArray[Any],
    values: npt.NDArray[Any],
    intercept: float,
    counts: npt.NDArray[np.int64],
    masses: npt.NDArray[np.float64],
) -> None: ...
def arrange_rows(
    begin: npt.NDArray[np.int64],
    columns: npt.NDArray[Any],
    values: npt.NDArray[Any],
    intercept: float,
    order: npt.NDArray[np.int64],
    number: npt.NDArray[np.int32],
    new_begin: npt.NDArray[np.int64],
    new_columns: npt.NDArray[np.int32],
    new_values: npt.NDArray[np.float32],
    threads: int,
) -> None: ...
def find_conflicts(
    begin: npt.NDArray[np.int64],
    columns: npt.NDArray[Any],
    count: int,
    rows: npt.NDArray[np.int64],
    block: int,
    threads: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], float]: ...
def factor_losses() -> tuple[str, ...]: ...
def factor_syncs() -> tuple[str, ...]: ...
def factor_stride(factors: int) -> int: ...
def train_factors(
    *,
    loss: str,
    sync: str,
    threads: int,
    users: npt.NDArray[np.int32],
    items: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    liked_begin: npt.NDArray[np.int64],
    liked_items: npt.NDArray[np.int32],
    begin: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    groups: int,
    user_factors: npt.NDArray[np.float32],
    item_factors: npt.NDArray[np.float32],
    user_rates: npt.NDArray[np.float32],
    item_rates: npt.NDArray[np.float32],
    regularization: float,
    mean: float,
    seed: int,
) -> float: ...

CUT_MOST_CLASSES: int

def cut_syncs() -> tuple[str, ...]: ...
def cut_stride(classes: int) -> int: ...
def train_cut(
    *,
    sync: str,
    threads: int,
    tails: npt.NDArray[np.int32],
    heads: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
    begin: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    groups: int,
    shares: npt.NDArray[np.float32],
    fixed: npt.NDArray[np.uint8],
    classes: int,
    rate: float,
) -> float: ...
def add_rows(
    begin: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
    factors: npt.NDArray[np.float64],
    to: npt.NDArray[np.float64],
) -> None: ...

class LinearTrainer:
    def __init__(
        self,
        *,
        loss: str,
        step: str,
        sync: str,
        columns: int,
        workers: int,
        examples: int,
        custom: int = 0,
    ) -> None: ...
    @staticmethod
    def bytes_needed(
        *, loss: str, step: str, sync: str, columns: int, workers: int, examples: int
    ) -> int: ...
    @property
    def notes(self) -> int: ...
    @property
    def weights(self) -> npt.NDArray[np.float32]: ...
    @property
    def squares(self) -> npt.NDArray[np.float32]: ...
    @property
    def sums(self) -> npt.NDArray[np.float32]: ...
    def run(
        self,
        *,
        begin: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
        targets: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32] | None,
        notes: npt.NDArray[np.float32] | None,
        order: npt.NDArray[np.int64],
        block: int,
        pieces: npt.NDArray[np.int64] | None,
        t: int,
        since: int,
        spacing: npt.NDArray[np.float32],
        curvatures: npt.NDArray[np.float32],
        anchors: npt.NDArray[np.float64] | None,
        base: npt.NDArray[np.float32] | None,
        numbers: list[float],
    ) -> float: ...
    def gauge(
        self,
        *,
        begin: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
        targets: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32] | None,
        numbers: list[float],
        at: npt.NDArray[np.float64],
        anchors: npt.NDArray[np.float64],
        derivatives: npt.NDArray[np.float64],
        gradient: npt.NDArray[np.float64],
    ) -> float: ...

class _Svmlight:
    @property
    def rows(self) -> int: ...
    @property
    def entries(self) -> int: ...
    @property
    def lines(self) -> int: ...
    @property
    def lowest(self) -> int: ...  # index; INT32_MAX of no entries
    @property
    def highest(self) -> int: ...  # index; -1 of no entries
    @classmethod
    def of_file(
        cls,
        *,
        path: str,
        file: int,
        size: int,
        begin: int,
        end: int,
        queries: bool,
        first: int,
        threads: int,
    ) -> Self: ...
    @classmethod
    def of_text(
        cls, *, path: str, text: bytes, lines_before: int, queries: bool, first: int, threads: int
    ) -> Self: ...
    def move_to(
        self,
        *,
        ends: npt.NDArray[np.int64],
        first: int,
        columns: npt.NDArray[np.int32],
        base: int,
        values: npt.NDArray[Any],
        labels: npt.NDArray[np.float64],
        queries: npt.NDArray[np.int64] | None,
        threads: int,
    ) -> None: ...

class SvmlightFloat32(_Svmlight): ...
class SvmlightFloat64(_Svmlight): ...
