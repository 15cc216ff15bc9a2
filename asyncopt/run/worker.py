"""``Worker``, the first argument of ``fn``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from asyncopt._checks import whole
from asyncopt.devices import Station
from asyncopt.optim.averaging import Averaging
from asyncopt.optim.registered import Registered
from asyncopt.run.batches import DISPATCHES, Batches, SampledBatches
from asyncopt.run.board import Board
from asyncopt.run.checkpoint.loops import reached, settings_of
from asyncopt.run.delays import Delay
from asyncopt.run.loaders import LoaderSampler
from asyncopt.run.optimizers import SharedOptimizer
from asyncopt.run.orders import Drawing, Drawings
from asyncopt.run.schedule import Restarts, bring_to, check_schedule
from asyncopt.run.sources import Supply, check_supply
from asyncopt.run.turns import Turns
from asyncopt.run.windows import Loop, Windows

__all__ = ["Settings", "Worker"]

_Tensors = TypeVar("_Tensors", bound=tuple[Tensor, ...])
OnLoop = Callable[[int, dict[str, Any], Callable[[], int], Callable[[], int]], None]


class Settings(Protocol):
    """Settings of a run that its workers use."""

    @property
    def max_staleness(self) -> int | None:
        """Turns of others that may end between a worker's pull and its push; None: any."""

    @property
    def delay(self) -> Delay | None:
        """Injected delay before a push."""


class Worker:
    """One worker's view of its run: rank, barriers, batches, turns, losses.

    A worker trains in turns. A turn is from a pull, after which a gradient is computed, to the push
    of that gradient; each batch of :meth:`batches` is one, and so is what lies between
    :meth:`pull` and :meth:`push`. The run's ``max_staleness`` and ``delay`` are counted in turns.

    Attributes:
        rank: this worker's number, 0 to ``world_size - 1``.
        world_size: number of workers in the run.
        device: where it computes: its own of ``launch(devices=...)``, else the host.
        restarts: warns of schedulers that ``fn`` steps itself, in runs that can restart them.
        on_loop: called with each new loop's number, from 0, its settings, a function that counts
            the batches taken, and one that counts all batches. :meth:`batches` raises its
            exceptions. Set by the run, like the next two.
        on_take: called with the number of the loop before each batch is taken.
        on_end: called when a loop has no batch left.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        meet: Callable[[float], None],
        *,
        board: Board | None = None,
        optimizers: Sequence[SharedOptimizer] = (),
        settings: Settings | None = None,
        station: Station | None = None,
        drawings: Drawings | None = None,
        modules: Sequence[torch.nn.Module] = (),
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = torch.device("cpu") if station is None else station.device
        self.restarts: Restarts | None = None
        self.on_loop: OnLoop | None = None
        self.on_take: Callable[[int], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self._meet = meet
        self._board = Board(world_size) if board is None else board
        self._optimizers = optimizers
        self._station = station
        self._drawings = Drawings(are_shared=False) if drawings is None else drawings
        self._rounds = 0
        self._is_through = False  # it has reached the end of a loop and taken no batch since
        self._windows = Windows(rank, self._board, optimizers)
        self._turns = Turns(
            rank,
            self._board,
            optimizers,
            settings.max_staleness if settings is not None else None,
            settings.delay if settings is not None else None,
            station,
            Registered(modules),
        )

    @property
    def on_park(self) -> Callable[[], None] | None:
        """Called when a checkpoint of this worker may be taken: before it parks or at a barrier."""
        return self._turns.on_park

    @on_park.setter
    def on_park(self, call: Callable[[], None] | None) -> None:
        self._turns.on_park = call

    def finish(self) -> None:
        """Write the worker's remaining changes to the stores; its launcher calls it after ``fn``.

        These are writes to replicas, rebound buffers, background pushes from a device, and local
        steps since the last exchange.
        """
        self._turns.share()
        for optimizer in self._optimizers:
            if isinstance(optimizer, Averaging) and optimizer.is_unfinished:
                self._turns.begin()
                optimizer.finish()

    def retire(self, *, returned: bool) -> None:
        """End this worker's part in the run; its launcher calls it when ``fn`` has ended.

        Args:
            returned: True if ``fn`` has returned, so that its last batches are done.
        """
        if returned:
            self._windows.leave()
            if self._is_through:
                self._board.mark(self.rank, "done")
        self._turns.retire()

    def __repr__(self) -> str:
        return f"Worker(rank={self.rank}, world_size={self.world_size})"

    def barrier(self, timeout: float = 60.0) -> None:
        """Wait until every worker of the run has called this.

        Call it from one thread per worker. A barrier that failed stays failed for all workers. It
        ends the worker's turn.

        Args:
            timeout: seconds to wait for the others.

        Raises:
            RunTimeout: they did not all come in time, or one has already returned from ``fn``.
        """
        if not (hasattr(timeout, "__float__") and 0 < timeout < math.inf):
            raise ValueError(f"timeout: expected seconds > 0, got {timeout!r}")
        self._board.beat(self.rank)
        self._turns.stand()
        self._meet(float(timeout))

    def log(self, loss: float | Tensor) -> None:
        """Publish the latest loss for observers of the run.

        Args:
            loss: a number or a tensor with one element.

        Raises:
            TypeError: it is something else.
        """
        try:
            number = loss.item() if isinstance(loss, Tensor) else float(loss)
        except (RuntimeError, TypeError, ValueError) as error:
            raise TypeError(
                f"loss: expected a number or a tensor with one element, got {loss!r}; reduce it, "
                "such as by .mean()"
            ) from error
        self._board.log(self.rank, number)

    def pull(self) -> None:
        """Begin a turn, in a loop without :meth:`batches`: refresh the parameters.

        Replicas take the newest version of their stores. Under ``max_staleness`` this waits until
        the turn may begin; an open turn is ended.

        Raises:
            RunTimeout: the turn could not begin in time because of another worker.
        """
        self._turns.rest()
        self._turns.begin()
        self._turns.pull(everything=True)

    def push(self, *optimizers: torch.optim.Optimizer) -> None:
        """Step each of the optimizers, and end the turn.

        Within :meth:`batches` it lets others continue earlier than ``optimizer.step()``, which
        leaves the turn open until the next batch.
        """
        for optimizer in optimizers:
            if not hasattr(optimizer, "step"):
                raise TypeError(
                    f"optimizers: expected optimizers, got {type(optimizer).__name__}; gradients "
                    "are pushed from .grad"
                )
            optimizer.step()
        self._turns.end()

    def schedule(self, scheduler: LRScheduler, every: int = 1) -> None:
        """Bring a learning rate scheduler to the step of the run; call it instead of its ``step``.

        The run's step is the version of the store of the scheduler's optimizer: the number of
        pushes of all workers, and of writes without a push. All workers therefore follow one
        schedule, with the rates of torch's own loop at that step. Call it after each step of the
        optimizer, and for a scheduler that ``fn`` makes also before the loop: the first push of a
        replacement or of a resumed run then uses the rate of the run's step instead of the first
        rate. A worker with a device waits here for its last push.

        Args:
            scheduler: any of ``torch.optim.lr_scheduler`` but ``ReduceLROnPlateau``. It may come
                with ``args`` beside its optimizer, or be made in ``fn``.
            every: pushes for each of the scheduler's steps; those of an epoch, for a scheduler
                that counts epochs.

        Raises:
            TypeError, ValueError: an argument is wrong, or the scheduler is ahead of the run.
        """
        check_schedule(scheduler, every)
        if self.restarts is not None:
            self.restarts.follow(scheduler, after_push=self._windows.pushes > 0)
        if self._station is not None:
            self._station.flush()  # this worker's own pushes are among those of the store
        for optimizer in self._optimizers:
            # An averaging optimizer uses the rates of the optimizer that it wraps.
            if scheduler.optimizer in (optimizer, getattr(optimizer, "optimizer", None)):
                store: Any = optimizer.store
                bring_to(scheduler, store.version // every)
                return
        raise ValueError(
            "scheduler: expected one of an optimizer in this worker's args, got one of another; "
            "pass both to launch, or make the scheduler in fn"
        )

    @overload
    def batches(
        self,
        data: Tensor,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool | None = None,
        seed: int = 0,
        drop_last: bool | None = None,
        dispatch: str = "static",
    ) -> Iterator[Tensor]: ...

    @overload
    def batches(
        self,
        data: _Tensors,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool | None = None,
        seed: int = 0,
        drop_last: bool | None = None,
        dispatch: str = "static",
    ) -> Iterator[_Tensors]: ...

    @overload
    def batches(
        self,
        data: Any,
        batch_size: int | None = None,
        epochs: int = 1,
        shuffle: bool | None = None,
        seed: int = 0,
        drop_last: bool | None = None,
        dispatch: str = "static",
    ) -> Iterator[Any]: ...

    def batches(
        self,
        data: Any,
        batch_size: int | None = None,
        epochs: int = 1,
        shuffle: bool | None = None,
        seed: int = 0,
        drop_last: bool | None = None,
        dispatch: str = "static",
    ) -> Iterator[Any]:
        """This worker's share of the data, batch by batch; each batch is a turn.

        In every epoch all workers cut the same permutation into the same batches, and together they
        see each example exactly once. Under ``dispatch="static"`` worker ``r`` takes batches ``r``,
        ``r + world_size``, ... of each epoch; under ``"dynamic"`` each worker takes the next free
        batch, so faster workers take more. Workers do not wait for each other, neither between
        batches nor between epochs. All workers must call this equally often and in the same order.
        A worker with a device gets its batches there.

        A batch is done when a push that followed it is in the store (or was skipped for a gradient
        that is not finite); without optimizers in ``args``, when the next batch is taken. A
        replacement and a resumed run begin with the batches that were not done: those whose
        gradients were being accumulated, or all batches of a loop that pushes nothing. The last
        batches of a loop are done when the worker starts its next loop, or returns from ``fn``.

        Args:
            data: examples along dimension 0 of a tensor, a numpy array or a memory map, or of a
                tuple of equally long tensors or arrays; or a map-style torch ``Dataset``, collated
                as a ``DataLoader`` does; or a ``DataLoader``: the run distributes the batches that
                its sampler or batch sampler draws. ``docs/data.md`` describes how each option is
                treated.
            batch_size: examples in a batch; the epoch's last batch may be smaller. Not allowed with
                a ``DataLoader``, like ``shuffle`` and ``drop_last``.
            epochs: passes over the data.
            shuffle: permute the examples in each epoch, by ``(seed, epoch)`` alone; default True.
                If False, batches of tensors and of writable arrays are views, not copies.
            seed: an integer >= 0, the same in every worker. With the epoch it also seeds the global
                generators while a loader's sampler draws; a generator in the loader is not seeded.
            drop_last: drop the epoch's last batch if it is smaller than ``batch_size``; default
                False.
            dispatch: "static" or "dynamic". Under ``max_staleness=0`` and "dynamic", the turns of
                all workers together are those of a serial loop.

        Returns:
            An iterator over tensors, over tuples of tensors if ``data`` is a tuple (of its own type
            if it is a NamedTuple), or over a dataset's collated batches.

        Raises:
            TypeError, ValueError: at the call, before the first batch; in a later epoch if a
                sampler draws another order than in other workers.
            CheckpointError: at the call, if the run is resumed and the loop was begun with other
                settings, under which its batches had other examples.
            RunTimeout: a turn could not begin in time because of another worker.
        """
        if dispatch not in DISPATCHES:
            names = ", ".join(map(repr, DISPATCHES))
            raise ValueError(f"dispatch: expected one of {names}, got {dispatch!r}")
        supply = check_supply(data, batch_size, shuffle, drop_last)
        epochs, seed = whole("epochs", epochs, 0), whole("seed", seed, 0)
        is_dynamic, number = dispatch == "dynamic", self._rounds
        if isinstance(supply, Supply):
            every = 1 if is_dynamic else self.world_size
            batches: Batches | SampledBatches = Batches(supply, epochs, seed, every)
        else:
            draw = functools.partial(self._draw, supply.sampler, epochs, seed, number, is_dynamic)
            drawing = self._drawings.of(number, self.rank, self.world_size, draw)
            batches = SampledBatches(supply, drawing)
        if self.on_loop is not None:
            settings = settings_of(
                data,
                batches.description(),
                epochs=epochs,
                seed=seed,
                dispatch=dispatch,
                workers=self.world_size,
            )
            begun = functools.partial(self._begun, number)
            self.on_loop(number, settings, begun, batches.final_total)
        self._rounds += 1
        return self._loop(batches, number, is_dynamic=is_dynamic)

    def _begun(self, number: int) -> int:
        """Number of batches of a loop that workers have taken so far."""
        return reached(self._board.positions(), number)

    def _draw(
        self,
        sampler: LoaderSampler,
        epochs: int,
        seed: int,
        number: int,
        is_dynamic: bool,
        ranks: set[int],
    ) -> Drawing:
        """Begin to draw the orders of a loop, for the workers ``ranks`` of this process."""
        board = self._board
        return Drawing(
            functools.partial(sampler.draw, seed),
            epochs,
            1 if is_dynamic else self.world_size,
            agree=functools.partial(self._agree, number, sampler.name),
            least=lambda: board.least(number, None if is_dynamic else ranks),
        )

    def _agree(self, number: int, sampler: str, epoch: int, digest: int) -> None:
        """Raise ValueError if another worker has drawn another order for an epoch of a loop."""
        if not self._board.agree(number, epoch, digest):
            raise ValueError(
                f"data.sampler: expected the same order in every worker, got another one from "
                f"{sampler} in worker {self.rank}, epoch {epoch}; make the loader before the "
                f"launch and pass it in args (the run deals its batches out, so no sampler may "
                f"depend on the rank), and draw its random numbers from the global generators or "
                f"from generators with fixed seeds"
            )

    def _loop(
        self, batches: Batches | SampledBatches, number: int, is_dynamic: bool
    ) -> Iterator[Any]:
        board, turns, rank, total = self._board, self._turns, self.rank, batches.total
        windows, loop = self._windows, Loop(number)

        def may_park() -> bool:
            if not windows.may_park(loop):
                return False
            if not windows.keeps(loop):
                board.finish(rank, number)
            return True

        windows.leave()
        board.mark(rank, "wait")  # before it checks whether to park: see CheckpointObserver
        try:
            while True:
                if self.on_take is not None:
                    self.on_take(number)
                if self.restarts is not None:
                    self.restarts.look()
                turns.rest(may_park)
                if turns.are_serial:  # batches taken within a turn follow the order of turns
                    turns.begin()
                keep = loop.open > 0 and windows.keeps(loop)
                if is_dynamic:
                    index = board.take(rank, number, total, keep)
                else:
                    index = board.take_static(rank, number, total, self.world_size, keep)
                if index < 0:
                    if not batches.grow():
                        break
                    total = batches.total
                    continue
                if batches.is_empty(index):
                    continue
                windows.took(loop)
                self._is_through = False
                batch = batches.fetch(index)
                if self._station is not None:
                    batch = self._station.bring(batch)
                turns.begin()
                turns.pull()
                yield batch
        except GeneratorExit:
            # Left by break or by an exception: the next loop decides if the batch is done.
            windows.end_loop(loop, early=True)
            raise
        finally:
            self._drawings.leave(number)
            turns.end()
        if self._station is not None:
            self._station.rest()  # the launcher expects no pushes from a worker that is done
        windows.end_loop(loop, early=False)
        self._is_through = True
        if self.on_end is not None:
            self.on_end()
        board.mark(rank, "done")
