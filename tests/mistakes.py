"""What the tests of the exercises share: a result is right, or a sentence says which mistake explains it."""

import numpy as np
import torch

NOTHING = "the function returns nothing: is it still empty, or is its `return` missing?"


def assert_right(got, right, mistakes=None, rtol=1e-5, atol=1e-6, axes=(), what=""):
    """Pass if `got` is close to `right`; else name the first place that differs, and the mistakes that fit.

    `mistakes`: words that complete "this is what comes out when ..." -> the result of that wrong version, or
    a function without arguments that computes it. Only mistakes whose result equals `got` are named.
    `axes`: the names of the axes in the sentence ("row", "query", "key"). `what`: how the sentence begins.
    Values are tensors, arrays, numbers, or lists of anything.
    """
    __tracebackhide__ = True
    if same(got, right, rtol, atol):
        return
    told = f"{what}: " if what else ""
    if got is None:
        raise AssertionError(told + NOTHING)
    named = [name for name, value in (mistakes or {}).items() if fits(got, right, value, rtol, atol)]
    told += first_difference(got, right, rtol, atol, axes)
    raise AssertionError(f"{told}; this is what comes out when {', or when '.join(named)}" if named else told)


def unchanged(function, *given):
    """Return what `function` returns for `given`; AssertionError if it changes a tensor of them in place."""
    __tracebackhide__ = True
    before = [value.clone() if isinstance(value, torch.Tensor) else value for value in given]
    found = function(*given)
    for number, (value, kept) in enumerate(zip(given, before, strict=True), start=1):
        if isinstance(value, torch.Tensor) and not torch.equal(value, kept):
            told = f"argument {number} is changed in place: the caller still needs the old values"
            raise AssertionError(told)
    return found


def assert_learns(got, right, *inputs, what=""):
    """Pass if `got` and `right`, which have equal values, give each of the inputs the same gradient."""
    __tracebackhide__ = True
    assert got.requires_grad, f"{what}no gradient reaches the inputs: is the result detached?"
    ours, theirs = (
        torch.autograd.grad(result.square().sum(), inputs, allow_unused=True, materialize_grads=True)
        for result in (got, right)
    )
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        none = {"no gradient reaches it": torch.zeros_like(other)}
        assert_right(one, other, none, what=f"{what}the gradient of argument {number}")


def fits(got, right, value, rtol, atol) -> bool:
    """Whether a wrong version explains the result: it gives the same, and is not right itself."""
    value = value() if callable(value) else value
    return same(got, value, rtol, atol) and not same(value, right, rtol, atol)


def numbers(value) -> np.ndarray | None:
    """Return a value as an array of numbers, or None if it holds anything else."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().double().numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal lengths
        return None
    return array.astype(float) if array.dtype.kind in "biuf" else None


def same(a, b, rtol, atol) -> bool:
    x, y = numbers(a), numbers(b)
    if x is None or y is None:
        return x is None and y is None and plain(a) == plain(b)
    return x.shape == y.shape and np.allclose(x, y, rtol, atol, equal_nan=True)


def plain(value):
    """Tuples and arrays as lists, so that only their items are compared."""
    if isinstance(value, (list, tuple, np.ndarray, torch.Tensor)):
        return [plain(item) for item in value]
    return value


def first_difference(got, right, rtol, atol, axes) -> str:
    """Return the first place where two values differ, with both values there."""
    x, y = numbers(got), numbers(right)
    if x is None or y is None:
        a, b = plain(got), plain(right)
        if not (isinstance(a, list) and isinstance(b, list)):
            return f"{got!r} instead of {right!r}"
        i = next((i for i, (p, q) in enumerate(zip(a, b, strict=False)) if p != q), min(len(a), len(b)))
        ours, theirs = (repr(side[i]) if i < len(side) else "the end" for side in (a, b))
        return f"{axes[0] if axes else 'place'} {i}: {ours} instead of {theirs}"
    if x.shape != y.shape:
        return f"shape {x.shape} instead of {y.shape}"
    wrong = ~np.isclose(x, y, rtol, atol, equal_nan=True)
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    usual = {1: ("place",), 2: ("row", "column")}
    named = axes or usual.get(x.ndim, [f"axis {i} index" for i in range(x.ndim)])
    where = ", ".join(f"{name} {i}" for name, i in zip(named, place, strict=True))
    ours, theirs = (shown(side, place) for side in (x, y))
    if ours == theirs:  # they differ after the fourth digit
        ours, theirs = (f"{side[place]:.9g}" for side in (x, y))
    return f"{where}: {ours} instead of {theirs}" if where else f"{ours} instead of {theirs}"


def shown(array: np.ndarray, place: tuple) -> str:
    return f"{array[place]:.4g}"
