"""A Numba type of sixteen float32 lanes, which fills one vector register, or two or four narrower ones.

Numba relies on LLVM to vectorise loops over arrays. With the many arrays of a tile, LLVM vectorises few loops and
checks for overlapping arrays at every row. An explicit vector type avoids this: sums stay in registers, and every
processor uses its widest instructions.

Kernels can use `+ - * /` between lanes and with numbers, `< <= > >=`, which return a mask, `&` of masks, and the
functions below. Numba's cache depends only on the date of a kernel's own file: remove this folder's `__pycache__` after
a change in this file.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.extending import intrinsic, models, register_model, type_callable

NUM_LANES = 16
AHEAD = 8
"""Memory of Gaussians is prefetched this many Gaussians ahead, because processors cannot predict their order."""

_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, NUM_LANES)
_BOOLEANS = ir.VectorType(ir.IntType(1), NUM_LANES)
_BITS = ir.IntType(NUM_LANES)


class LanesType(types.Type):
    """The Numba type of sixteen float32 numbers."""

    def __init__(self) -> None:
        super().__init__("Lanes")


class MaskType(types.Type):
    """The Numba type of sixteen booleans."""

    def __init__(self) -> None:
        super().__init__("Mask")


LANES, MASK = LanesType(), MaskType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: types.Type) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: types.Type) -> None:
        super().__init__(dmm, fe_type, _BOOLEANS)


def _intrinsic(function: Any) -> Any:
    """Numba's `intrinsic`, typed as Any because kernels call its result without the typing context."""
    return intrinsic(function)


def _is_operand(kind: Any) -> bool:
    return isinstance(kind, LanesType | types.Number)


def _as_vector(context: Any, builder: ir.IRBuilder, value: ir.Value, kind: types.Type) -> ir.Value:
    """The value itself if it has sixteen lanes, or a number copied to all lanes."""
    if isinstance(kind, LanesType):
        return value
    number = context.cast(builder, value, kind, types.float32)
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), NUM_LANES), None))


def _define_operator(symbol: Any, result: types.Type, build: Any) -> None:
    """Defines a Python operator between lanes, and between lanes and numbers."""

    @type_callable(symbol)
    def resolve(context: Any) -> Any:
        def result_type(left: Any, right: Any) -> types.Type | None:
            both = _is_operand(left) and _is_operand(right)
            return result if both and LANES in (left, right) else None

        return result_type

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        left, right = (_as_vector(context, builder, *pair) for pair in zip(args, signature.args, strict=True))
        return build(builder, left, right)

    for left, right in ((LANES, LANES), (LANES, types.Number), (types.Number, LANES)):
        lower_builtin(symbol, left, right)(lower)


_define_operator(operator.add, LANES, lambda builder, left, right: builder.fadd(left, right))
_define_operator(operator.sub, LANES, lambda builder, left, right: builder.fsub(left, right))
_define_operator(operator.mul, LANES, lambda builder, left, right: builder.fmul(left, right))
_define_operator(operator.truediv, LANES, lambda builder, left, right: builder.fdiv(left, right))
_define_operator(operator.lt, MASK, lambda builder, left, right: builder.fcmp_ordered("<", left, right))
_define_operator(operator.le, MASK, lambda builder, left, right: builder.fcmp_ordered("<=", left, right))
_define_operator(operator.gt, MASK, lambda builder, left, right: builder.fcmp_ordered(">", left, right))
_define_operator(operator.ge, MASK, lambda builder, left, right: builder.fcmp_ordered(">=", left, right))


@type_callable(operator.and_)
def _resolve_and(context: Any) -> Any:
    return lambda left, right: MASK if isinstance(left, MaskType) and isinstance(right, MaskType) else None


@lower_builtin(operator.and_, MaskType, MaskType)
def _lower_and(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
    return builder.and_(*args)


def _address(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]], source_etype=_FLOAT)


def _is_float_array(kind: Any) -> bool:
    return isinstance(kind, types.Array) and kind.dtype == types.float32 and kind.layout == "C"


@_intrinsic
def load(typing_context, array, start):
    """Reads sixteen numbers of a contiguous float32 array, starting at a flat index, without bounds checks."""
    if not _is_float_array(array):
        return None

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address = builder.bitcast(_address(context, builder, signature, args), _VECTOR.as_pointer())
        return builder.load(address, align=4, typ=_VECTOR)

    return LANES(array, types.intp), generate


@_intrinsic
def number(typing_context, array, index):
    """Reads the number at a flat index, which must not be negative: unlike indexing, it handles no negative index."""
    if not _is_float_array(array):
        return None

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature, args), align=4, typ=_FLOAT)

    return types.float32(array, types.intp), generate


@_intrinsic
def prefetch(typing_context, array, index):
    """Prefetches the cache line of a flat index, for a read some hundred instructions later."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        integer = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), integer, integer, integer])
        array = context.make_array(signature.args[0])(context, builder, args[0])
        settings = [ir.Constant(integer, setting) for setting in (0, 3, 1)]  # for reading, with high locality, of data
        builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"),
            [builder.gep(array.data, [args[1]]), *settings],
        )
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@_intrinsic
def store(typing_context, array, start, values):
    """Writes sixteen numbers to a contiguous float32 array, starting at a flat index, without bounds checks."""
    if not _is_float_array(array) or not _is_operand(values):
        return None

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address = builder.bitcast(_address(context, builder, signature, args), _VECTOR.as_pointer())
        builder.store(_as_vector(context, builder, args[2], signature.args[2]), address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, values), generate


@_intrinsic
def spread(typing_context, value):
    """A number copied to all lanes."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return _as_vector(context, builder, args[0], signature.args[0])

    return LANES(value), generate


@_intrinsic
def where(typing_context, mask, values, others):
    """`values` where the mask is true, else `others`."""
    if not isinstance(mask, MaskType):
        return None

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        chosen, other = (_as_vector(context, builder, args[i], signature.args[i]) for i in (1, 2))
        return builder.select(args[0], chosen, other)

    return LANES(mask, values, others), generate


def _choose(comparison: str) -> Any:
    """An intrinsic that returns the left value where the comparison holds, else the right one: a single instruction."""

    def choose(typing_context, left, right):
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            first, second = (_as_vector(context, builder, *pair) for pair in zip(args, signature.args, strict=True))
            return builder.select(builder.fcmp_ordered(comparison, first, second), first, second)

        return LANES(left, right), generate

    return _intrinsic(choose)


smaller, larger = _choose("<"), _choose(">")


@_intrinsic
def fused(typing_context, left, right, addend):
    """`left * right + addend`, with a single rounding if the processor supports it."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        operands = [_as_vector(context, builder, *pair) for pair in zip(args, signature.args, strict=True)]
        kind, name = ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{NUM_LANES}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)

    return LANES(left, right, addend), generate


@_intrinsic
def absolute(typing_context, values):
    """The absolute value of each lane."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fabs.v{NUM_LANES}f32"), args)

    return LANES(values), generate


@_intrinsic
def column_sums(typing_context, array, start):
    """The sums of sixteen consecutive groups of sixteen numbers of an array, starting at a flat index, as lanes.

    Neighbouring vectors are combined in a tree until one vector has all sums, in 15 steps instead of 16 times 4.
    """
    if not _is_float_array(array):
        return None

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        address = builder.bitcast(_address(context, builder, signature, args), _VECTOR.as_pointer())
        index = ir.IntType(32)
        vectors: list[Any] = [
            builder.load(builder.gep(address, [ir.Constant(index, i)], source_etype=_VECTOR), align=4, typ=_VECTOR)
            for i in range(NUM_LANES)
        ]
        # Each vector contains the partial sums of `per_vector` inputs, one after the other.
        per_vector = 1
        while len(vectors) > 1:
            length = NUM_LANES // per_vector // 2
            low = [i for i in range(2 * NUM_LANES) if (i // length) % 2 == 0]
            choices = [
                ir.Constant(ir.VectorType(index, NUM_LANES), [ir.Constant(index, lane + shift) for lane in low])
                for shift in (0, length)
            ]
            vectors = [
                builder.fadd(
                    builder.shuffle_vector(first, second, choices[0]), builder.shuffle_vector(first, second, choices[1])
                )
                for first, second in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            per_vector *= 2
        return vectors[0]

    return LANES(array, types.intp), generate


@_intrinsic
def bits(typing_context, mask):
    """The mask as an integer whose lowest bit is lane 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], _BITS), ir.IntType(64))

    return types.int64(mask), generate


@_intrinsic
def lowest_bit(typing_context, number):
    """The position of the lowest set bit of an integer that is not 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate
