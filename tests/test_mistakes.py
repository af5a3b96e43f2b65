"""Grades mistakes.py: what is right passes, what is wrong gets its place, and only mistakes that fit."""

import numpy as np
import pytest
import torch
from mistakes import assert_learns, assert_right, unchanged

RIGHT = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(("got", "right"), [
    (RIGHT + 1e-7, RIGHT),
    ([[1, 2], [3, 4]], RIGHT),
    (np.array([True, False]), [1, 0]),
    ((("a", 1), b"c"), [["a", 1], b"c"]),
    (float("nan"), torch.tensor(float("nan"))),
    ([[1], [2, 3]], [(1,), (2, 3)]),
])  # fmt: skip
def test_what_is_right_passes(got, right):
    assert_right(got, right, {"no": got})


@pytest.mark.parametrize(("got", "right", "sentence"), [
    (RIGHT + torch.eye(2), RIGHT, "row 0, column 0: 2 instead of 1"),
    (RIGHT.flatten(), RIGHT, "shape (4,) instead of (2, 2)"),
    ([1.0, 2.5], [1.0, 2.0], "place 1: 2.5 instead of 2"),
    (2.0, 1.0, "2 instead of 1"),
    (1.00002, 1.0, "1.00002 instead of 1"),
    ([[[0]]], [[[1]]], "axis 0 index 0, axis 1 index 0, axis 2 index 0: 0 instead of 1"),
    (float("nan"), 1.0, "nan instead of 1"),
    (["a", "b"], ["a", "c"], "place 1: 'b' instead of 'c'"),
    (["a"], ["a", "c"], "place 1: the end instead of 'c'"),
    ("a", 1.0, "'a' instead of 1.0"),
    (None, RIGHT, "the function returns nothing: is it still empty, or is its `return` missing?"),
])  # fmt: skip
def test_what_is_wrong_gets_its_first_place(got, right, sentence):
    with pytest.raises(AssertionError) as error:
        assert_right(got, right)
    assert str(error.value) == sentence


def test_what_gives_no_gradient_or_another_one_is_told():
    x, y = (torch.ones(2, requires_grad=True) for _ in "xy")
    assert_learns(x * y, y * x, x, y)
    for got, sentence in (
        ((x * y).detach(), "no gradient reaches the inputs: is the result detached?"),
        (x * y.detach(), "argument 2: place 0: 0 instead of 2; this is what comes out when no gradient"),
        (x * x * y, "argument 1: place 0: 4 instead of 2"),
    ):
        with pytest.raises(AssertionError) as error:
            assert_learns(got, x * y, x, y, what="a product: ")
        assert sentence in str(error.value) and str(error.value).startswith("a product: ")


def test_the_mistakes_that_fit_are_named_and_no_others():
    mistakes = {
        "one is added": RIGHT + 1,
        "all are doubled": lambda: RIGHT * 2,
        "nothing is wrong": RIGHT,
        "two are added": RIGHT + 2,
        "each is added to itself": RIGHT + RIGHT,
    }
    with pytest.raises(AssertionError) as error:
        assert_right(RIGHT * 2, RIGHT, mistakes, axes=("query", "key"), what="sums")
    told = "sums: query 0, key 0: 2 instead of 1; this is what comes out when "
    assert str(error.value) == told + "all are doubled, or when each is added to itself"


def test_a_tensor_that_is_changed_in_place_is_named():
    assert unchanged(lambda x, n: x + n, RIGHT, 1).equal(RIGHT + 1)
    with pytest.raises(AssertionError, match="argument 2 is changed in place"):
        unchanged(lambda n, x: x.add_(n), 1, RIGHT.clone())
