"""Atomic operations on elements of numpy arrays, for functions that numba compiles for the CPU.

Arguments and results are those of the same functions in ``numba.cuda.atomic``. Use them in any
function that several threads run, by ``prange`` or with ``nogil=True``::

    from asyncopt.sparse import atomic

    @numba.njit(parallel=True)
    def histogram(bins, counts):
        for i in numba.prange(len(bins)):
            atomic.add(counts, bins[i], 1)  # counts[bins[i]] += 1 would lose some

They can also be called from plain Python, and are atomic there too.

Every function takes these arguments:

- ``array``: float32, float64, int32, int64, uint32 or uint64, of any shape and strides, writeable
  and aligned.
- ``index``: an integer, or a tuple with one integer per dimension. As in numba, indices below 0
  count from the end and are checked only with ``boundscheck=True``; from plain Python they are
  always checked.
- values: numbers, cast to the dtype as in ``array[index] = value``. An array of integers takes only
  integers.
- ``order``: the memory order, a literal of `ORDERS`. The default ``"relaxed"`` does not order other
  memory accesses. It suffices for counters and for Hogwild updates: each weight is valid by itself,
  and the threads synchronize when the loop ends. A lock needs ``"acquire"`` when it is taken, to
  see the writes of its last owner, and ``"release"`` when it is released, to publish the owner's
  writes. This matters on ARM64, and to the compiler on every processor.

Each function compiles to one LLVM instruction, ``atomicrmw`` or ``cmpxchg``. On x86-64, adding
floats becomes a compare-and-swap loop.

Needs numba: ``pip install 'asyncopt[numba]'``.

Raises:
    numba.TypingError: while compiling: an argument has another type.
    TypeError: an argument has another type, when called from plain Python.
    IndexError: the index is out of bounds, if that is checked.
    ValueError: the array is misaligned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt._install import command

try:
    import numba
except ImportError as error:
    raise ImportError(
        f"asyncopt.sparse.atomic: expected numba, got: {error}; run: {command('numba')}"
    ) from error
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

__all__ = ["ORDERS", "add", "compare_exchange", "exchange"]

Index = int | np.integer[Any] | tuple[int | np.integer[Any], ...]
Number = float | np.floating[Any] | np.integer[Any]

ORDERS = ("relaxed", "acquire", "release", "acq_rel", "seq_cst")
"""Memory orders of C++, weakest first."""

_LLVM_ORDERS = dict(zip(ORDERS, ("monotonic", *ORDERS[1:]), strict=True))

_DTYPES = (
    types.float32,
    types.float64,
    types.int32,
    types.int64,
    types.uint32,
    types.uint64,
)


_MISALIGNED = (
    "array: expected elements at multiples of their size in memory, got a misaligned array; "
    "use .copy()"
)


def add(array: npt.NDArray[Any], index: Index, value: Number, order: str = "relaxed") -> Any:
    """``array[index] += value``; return the old value."""
    return _from_python(_add, order, array=array, index=index, value=value)


def exchange(array: npt.NDArray[Any], index: Index, value: Number, order: str = "relaxed") -> Any:
    """``array[index] = value``; return the old value."""
    return _from_python(_exchange, order, array=array, index=index, value=value)


def compare_exchange(
    array: npt.NDArray[Any], index: Index, expected: Number, value: Number, order: str = "relaxed"
) -> Any:
    """``array[index] = value`` if the element is ``expected``; return the old value.

    The exchange took place if the result is ``expected``. Bits are compared: a NaN equals the same
    NaN, and 0.0 does not equal -0.0, so a loop that retries with the returned value always ends.
    """
    return _from_python(
        _compare_exchange, order, array=array, index=index, expected=expected, value=value
    )


def _check(order: Any, array: Any, index: Any, **values: Any) -> None:
    """Raise TypingError for argument types that the operations do not support."""
    if not isinstance(array, types.Array):
        raise TypingError(f"array: expected a numpy array, got {array}")
    if array.dtype not in _DTYPES:
        known = ", ".join(map(str, _DTYPES))
        raise TypingError(f"array: expected a dtype of {known}; got {array.dtype}; use .astype()")
    if not array.mutable:
        raise TypingError("array: expected a writeable array, got a read-only one; use .copy()")
    indices = _indices(index)
    if not all(isinstance(each, types.Integer) for each in indices):
        raise TypingError(f"index: expected integers, which name one element; got {index}")
    if len(indices) != array.ndim:
        raise TypingError(
            f"index: expected as many integers as dimensions, {array.ndim}; got {len(indices)}"
        )
    numbers: tuple[Any, ...] = (types.Integer, types.Boolean)
    if isinstance(array.dtype, types.Float):
        numbers += (types.Float,)
    for name, value in values.items():
        if not isinstance(value, numbers):
            raise TypingError(f"{name}: expected a number for {array.dtype}, got {value}; cast it")
    if order not in ORDERS:
        raise TypingError(f"order: expected a literal of {', '.join(ORDERS)}; got {order}")


def _indices(index: Any) -> tuple[Any, ...]:
    """The element types of an index type."""
    return tuple(getattr(index, "types", (index,)))


def _from_python(compiled: Any, order: str, **arguments: Any) -> Any:
    kinds = {}
    for name, value in arguments.items():
        try:
            kinds[name] = numba.typeof(value)
        except ValueError:
            kinds[name] = type(value).__name__
    index = arguments["index"]
    for number in index if isinstance(index, tuple) else (index,):
        if isinstance(number, int) and not types.intp.minval <= number <= types.intp.maxval:
            raise IndexError(f"index is out of bounds: {number}")
    try:
        _check(order, **kinds)
    except TypingError as error:
        raise TypeError(str(error)) from None
    return compiled(*arguments.values())


# Called from plain Python, with the strongest order, which satisfies every other.


@numba.njit(boundscheck=True)
def _add(array: Any, index: Any, value: Any) -> Any:
    return add(array, index, value, "seq_cst")


@numba.njit(boundscheck=True)
def _exchange(array: Any, index: Any, value: Any) -> Any:
    return exchange(array, index, value, "seq_cst")


@numba.njit(boundscheck=True)
def _compare_exchange(array: Any, index: Any, expected: Any, value: Any) -> Any:
    return compare_exchange(array, index, expected, value, "seq_cst")


# Called from compiled functions.


def _literal(order: Any) -> Any:
    """The value of a string literal; other types are returned as they are."""
    return getattr(order, "literal_value", getattr(order, "value", order))


@overload(add, strict=False, prefer_literal=True, inline="always")
def _overload_add(array: Any, index: Any, value: Any, order: Any = "relaxed") -> Any:
    name = _literal(order)
    _check(name, array, index, value=value)
    return lambda array, index, value, order="relaxed": _modify(  # type: ignore[call-arg]
        "add", name, array, index, value
    )


@overload(exchange, strict=False, prefer_literal=True, inline="always")
def _overload_exchange(array: Any, index: Any, value: Any, order: Any = "relaxed") -> Any:
    name = _literal(order)
    _check(name, array, index, value=value)
    return lambda array, index, value, order="relaxed": _modify(  # type: ignore[call-arg]
        "xchg", name, array, index, value
    )


@overload(compare_exchange, strict=False, prefer_literal=True, inline="always")
def _overload_compare_exchange(
    array: Any, index: Any, expected: Any, value: Any, order: Any = "relaxed"
) -> Any:
    name = _literal(order)
    _check(name, array, index, expected=expected, value=value)
    return lambda array, index, expected, value, order="relaxed": _compare(  # type: ignore[call-arg]
        name, array, index, expected, value
    )


@intrinsic(prefer_literal=True)
def _modify(_: Any, operation: Any, order: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = _Arguments(context, builder, signature, arguments)
        name = operation.literal_value
        if name == "add" and isinstance(array.dtype, types.Float):
            name = "fadd"
        return builder.atomic_rmw(
            name, given.pointer(2), given.number(4), _LLVM_ORDERS[order.literal_value]
        )

    return array.dtype(operation, order, array, index, value), generate


@intrinsic(prefer_literal=True)
def _compare(_: Any, order: Any, array: Any, index: Any, expected: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = _Arguments(context, builder, signature, arguments)
        bits = ir.IntType(array.dtype.bitwidth)  # LLVM's cmpxchg does not take floats
        success = _LLVM_ORDERS[order.literal_value]
        found = builder.cmpxchg(
            builder.bitcast(given.pointer(1), bits.as_pointer()),
            builder.bitcast(given.number(3), bits),
            builder.bitcast(given.number(4), bits),
            success,
            # After a failure there is nothing to release.
            {"release": "monotonic", "acq_rel": "acquire"}.get(success, success),
        )
        return builder.bitcast(builder.extract_value(found, 0), context.get_value_type(array.dtype))

    return array.dtype(order, array, index, expected, value), generate


class _Arguments:
    """Arguments of a called intrinsic; an array is followed by its index."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        self._context = context
        self._builder = builder
        self._types = signature.args
        self._values = values
        self._dtype = signature.return_type

    def pointer(self, position: int) -> Any:
        """Pointer to the element of the array at ``position``."""
        array, index = self._types[position : position + 2]
        values = [self._values[position + 1]]
        if isinstance(index, types.BaseTuple):
            values = cgutils.unpack_tuple(self._builder, *values)
        pointer = cgutils.get_item_pointer(
            self._context,
            self._builder,
            array,
            self._context.make_array(array)(self._context, self._builder, self._values[position]),
            [self._place(v, kind) for v, kind in zip(values, _indices(index), strict=True)],
            wraparound=True,
            boundscheck=self._context.enable_boundscheck,
        )
        self._expect_aligned(pointer)
        return pointer

    def _place(self, value: Any, kind: Any) -> Any:
        """An index as in numba: signed, below 0 to count from the end."""
        place = self._cast(value, kind, types.intp)
        if kind.signed:
            return place
        beyond = self._builder.icmp_signed("<", place, place.type(0))  # 2 ** 63 or more
        return self._builder.select(beyond, place.type(types.intp.maxval), place)

    def number(self, position: int) -> Any:
        """The argument at ``position`` in the dtype of the array."""
        return self._cast(self._values[position], self._types[position], self._dtype)

    def _expect_aligned(self, pointer: Any) -> None:
        """Check alignment at run time: numba's types lack it, and ARM64 would kill the process."""
        address = self._builder.ptrtoint(pointer, ir.IntType(64))
        beyond = self._builder.and_(address, address.type(self._dtype.bitwidth // 8 - 1))
        with cgutils.if_unlikely(self._builder, cgutils.is_not_null(self._builder, beyond)):
            self._context.call_conv.return_user_exc(self._builder, ValueError, (_MISALIGNED,))

    def _cast(self, value: Any, kind: Any, to: Any) -> Any:
        return self._context.cast(self._builder, value, kind, to)
