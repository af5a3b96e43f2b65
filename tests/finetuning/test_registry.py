"""Grades finetuning/registry.py: the tasks by name, and which models can do them."""

import pytest
import tuned

from minilm.finetuning.registry import TASKS, check_kind
from minilm.plumbing.errors import UserError


def test_a_model_of_the_wrong_kind_is_told_what_it_can_do():
    with pytest.raises(UserError) as caught:
        check_kind("tagging", tuned.config("decoder"), "runs/causal")
    assert str(caught.value) == (
        "--task tagging needs a model of kind encoder, and runs/causal is of kind decoder; "
        "it can do --task classification, pair, similarity, text-to-text"
    )
    for name, task in TASKS.items():
        assert task.name == name
        for kind in task.kinds:
            check_kind(name, tuned.config(kind), "x")
