"""Exercises: a function is emptied, you write it again, and its tests say in one sentence what is wrong.

python -m minilm.exercises list | start NAME | hint NAME | check NAME | solution NAME | restore NAME|--all
"""

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .plumbing.errors import UserError, as_line, suggest
from .plumbing.folders import atomic_write

ROOT = Path(__file__).parents[1]
REGIMES = dict(pretraining=1, continued=2, extraction=3, finetuning=4, reinforcement=5, in_context=6)
# Signature and docstring, then all that stands further right. By its look: an attempt may be no Python yet.
FUNCTION = r'(?P<head>^(?P<indent> *)def {}\((?:.*\n)*?.*:(?:  #.*)?\n *"""(?:.*\n)*?.*"""\n)'
FUNCTION += r"(?P<body>(?:(?:\n| *#.*\n)*(?P=indent) +\S.*\n?)*)"
# A test that takes longer than 8 seconds is ended, with the line at which it was (pytest 9).
PYTEST = [sys.executable, "-m", "pytest", "-x", "--tb=native", "-o", "faulthandler_timeout=8"]
PYTEST += ["-o", "faulthandler_exit_on_timeout=true", "-k"]


class Exercise(NamedTuple):
    """A function to write. Hints are in tests/hints.txt: steps in words, the last nearly the code."""

    level: int  # 1 a line or two, 2 an idea, 3 several ideas
    function: str  # FILE:NAME or FILE:CLASS.NAME below minilm/
    tests: str  # pytest's -k for those of tests/ROOM/test_FILE*.py that grade it, in seconds


# In the order of the lecture.
# fmt: off
EXERCISES = {
    "causal-mask": Exercise(1, "model/attention.py:causal_mask", "causal_mask_is"),
    "attention": Exercise(1, "model/attention.py:explicit_attention", "explicit_equals or dropout_takes"),
    "heads": Exercise(1, "model/attention.py:MultiHeadAttention.split_heads", "split_heads"),
    "cache": Exercise(2, "model/attention.py:KeyValueCache.append", "cache_returns"),
    "sinusoids": Exercise(1, "model/blocks.py:sinusoidal_positions", "sinusoids"),
    "alibi": Exercise(2, "model/attention.py:alibi_bias", "alibi_bias_is"),
    "rope": Exercise(2, "model/attention.py:rotate", "a_pair_is_turned or positions_of_each_row"),
    "block-norm": Exercise(1, "model/blocks.py:Block.add", "norm_stands or dropout_falls"),
    "residual-init": Exercise(2, "model/transformer.py:Transformer.shrink_residual_outputs", "residual"),
    "pooling": Exercise(1, "model/pooling.py:token_mean", "pooling_reads or without_a_mask"),
    "temperature": Exercise(2, "model/sampling.py:SamplingRule.log_probabilities",
        "temperature_ or parts_in"),
    "top-p": Exercise(2, "model/sampling.py:keep_top_p", "top_p"),
    "bpe-merges": Exercise(1, "tokenizer/bpe.py:train_naive", "naive and (by_hand or run_out)"),
    "wordpiece": Exercise(1, "tokenizer/wordpiece.py:WordPiece.encode_word", "longest_piece"),
    "schedule": Exercise(1, "training/loop.py:learning_rate", "warm_up_rises or each_schedule"),
    "decay": Exercise(2, "training/loop.py:make_optimizer", "every_moving_weight or frozen_weights"),
    "train-step": Exercise(3, "training/loop.py:train_step",
        "micro_batches_give or clipping_sh or each_step or that_is_clipped or dropout_dep"),
    "entities": Exercise(3, "training/metrics.py:entities", "test_entities"),
    "80-10-10": Exercise(1, "pretraining/masked.py:Masked.hide", "80_10_10"),
    "whole-words": Exercise(3, "pretraining/masked.py:whole_words", "words_that_do_not_fit or are_hidden"),
    "sentence-pairs": Exercise(2, "pretraining/next_sentence.py:SentencePairs.rows", "true_b or chosen"),
    "infilling": Exercise(2, "pretraining/noise.py:infilling", "infilling or longer_than"),
    "label-smoothing": Exercise(1, "pretraining/translation.py:smoothed_cross_entropy", "smoothing_equals"),
    "windows": Exercise(2, "pretraining/causal.py:overlapping_windows", "validation_labels_each"),
    "soft-targets": Exercise(2, "pretraining/distillation.py:soft_target_loss", "soft_targets"),
    "replay": Exercise(2, "continued/forgetting.py:with_replay", "replay_mixes"),
    "new-rows": Exercise(2, "continued/new_tokens.py:extend_vocabulary", "old_tokens_keep"),
    "probe": Exercise(3, "extraction/probe.py:fit", "at_its_own_minimum"),
    "lora": Exercise(1, "finetuning/lora.py:LoRALinear.forward", "equation_3"),
    "best-span": Exercise(2, "finetuning/span.py:best_span", "slow_search"),
    "span-windows": Exercise(3, "finetuning/span.py:Span.windows",
        "label_where or windows_that_overlap or one_window_marks or shortest_rows"),
    "answer-labels": Exercise(2, "finetuning/text_to_text.py:TextToText.answer_rows", "sources_with_their"),
    "bradley-terry": Exercise(1, "reinforcement/preferences.py:PairObjective.loss", "bradley_and_terry"),
    "token-rewards": Exercise(2, "reinforcement/ppo.py:token_rewards", "2_and_4 or 2_the or 4_the or 5_an"),
    "gae": Exercise(3, "reinforcement/ppo.py:advantages", "6_advantages"),
    "whitening": Exercise(2, "reinforcement/ppo.py:whiten", "test_7_whitening"),
    "clipped-loss": Exercise(3, "reinforcement/ppo.py:ppo_loss", "8_the_loss"),
    "grpo": Exercise(2, "reinforcement/grpo.py:group_advantages", "mean_of_its_group"),
    "dpo-answers": Exercise(2, "reinforcement/dpo.py:answer_log_probabilities", "only_the_answer"),
    "dpo": Exercise(1, "reinforcement/dpo.py:DirectPreference.rewards", "equals_the_formula"),
    "label-scores": Exercise(2, "in_context/scores.py:label_scores", "their_formulas or all_but_impossible"),
    "likelihood": Exercise(3, "in_context/scores.py:batch_likelihoods", "one_text_at_a_time"),
    "controls": Exercise(2, "in_context/prompts.py:relabelled", "same_new_labels or examples_alone"),
}
# fmt: on


def find(name: str) -> tuple[Path, re.Match, str]:
    """Return the file of an exercise, where in its text the function is, and the function as it is now."""
    file, _, function = EXERCISES[name].function.partition(":")
    path, (*owner, function) = ROOT / "minilm" / file, function.split(".")
    inside = rf"^class {owner[0]}\b(?:.*\n)*?" if owner else ""
    found = re.search(inside + FUNCTION.format(function), path.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise UserError(f"{path}: no function {function} with its docstring; `git checkout {path}`")
    return path, found, found["head"] + found["body"]


def replace(name: str, function: str) -> None:
    """Put another text in the place of the function."""
    path, found, _ = find(name)
    atomic_write(path, found.string[: found.start("head")] + function + found.string[found.end() :])


def kept(name: str, what: str = "original") -> Path:
    """Return the file that keeps something of an exercise outside the tree; each clone has a folder."""
    cache = os.path.expanduser(os.environ.get("MINILM_CACHE") or "~/.cache/minilm")
    folder = Path(cache, "exercises", re.sub(r"\W+", "-", str(ROOT)).strip("-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.{what}"


def held(name: str, what: str = "original") -> str:
    """Return what such a file holds, nothing where there is none."""
    return kept(name, what).read_text(encoding="utf-8") if kept(name, what).exists() else ""


def is_started(name: str) -> bool:
    """Say whether a blank or an attempt stands in the place of the original."""
    now = find(name)[2]
    return f'("exercise {name}")' in now or held(name) not in ("", now)


def show_all() -> None:
    """Print each exercise, and how far one is."""
    print(f"{'exercise':26}{'level':7}{'regime':18}state\n" + "-" * 60)
    for name, (level, function, _) in EXERCISES.items():
        started, solved, room = is_started(name), held(name, "solved"), function.split("/")[0]
        is_solved = solved and (not started or solved == find(name)[2])
        state = "solved" if is_solved else "started" if started else "untouched"
        print(f"{name:26}{level:<7}{REGIMES.get(room, '-')} {room:16}{state}")


def start(name: str) -> None:
    """Empty the function, and keep it."""
    path, found, function = find(name)
    if is_started(name):
        raise UserError(f"{name} is started: go on, or `restore {name}`, which keeps your attempt")
    if not any(is_started(other) for other in EXERCISES if find(other)[0] == path) and shutil.which("git"):
        asked = ["git", "diff", "--name-only", "HEAD", "--", path]
        if subprocess.run(asked, check=False, cwd=ROOT, capture_output=True).stdout:
            raise UserError(f"{path}: you have changed it; `git commit` or `git stash` that first")
    atomic_write(kept(name), function)
    replace(name, f'{found["head"]}{found["indent"]}    raise NotImplementedError("exercise {name}")\n')
    line = found.string.count("\n", 0, found.start("head")) + 1
    print(f"{path}, line {line}: write it, then `check {name}`; `hint {name}` helps")


def hint(name: str) -> None:
    """Print the next hint; behind the last the first."""
    text, n = (ROOT / "tests" / "hints.txt").read_text(encoding="utf-8"), int(held(name, "hints") or 0)
    hints = re.search(rf"^{name}\n((?: +.*\n)+)", text, re.MULTILINE)[1].splitlines()
    print(f"{n + 1} of {len(hints)}: {hints[n].strip()}")
    atomic_write(kept(name, "hints"), str((n + 1) % len(hints)))


def check(name: str) -> int:
    """Print the first mistake and return 1, or print that all tests pass."""
    path, _, function = find(name)
    files = sorted((ROOT / "tests" / path.parent.name).glob(f"test_{path.stem}*.py"))
    command = [*PYTEST, EXERCISES[name].tests, *files]
    told = subprocess.run(command, check=False, cwd=ROOT, stdout=-1, stderr=-2, encoding="utf-8").stdout
    stopped, places = "Timeout (" in told, re.findall(r'File ".*[/\\](minilm[/\\].*)", line (\d+)', told)
    place = " ({}, line {})".format(*places[0 if stopped else -1]) if places else ""
    if stopped:
        print(f"stopped after 8 seconds{place}: does a loop there never end?")
    elif failed := re.search(r"^(?:E +)?([\w.]*[A-Z]\w+)(?:: (.*))?$", told, re.MULTILINE):
        words = dict(AssertionError=failed[2], NotImplementedError=f"{failed[2]} is empty{place}")
        print(words.get(failed[1], failed[0].removeprefix("E ").strip() + place))
    else:
        atomic_write(kept(name, "solved"), function)
        print(f"all {re.search(r'([0-9]+) passed', told)[1]} tests of {name} pass")
        return 0
    return 1


def solution(name: str) -> None:
    """Print what an attempt has to change to become the original."""
    sides = find(name)[2].splitlines(), held(name).splitlines()
    print("\n".join(difflib.unified_diff(*sides, "your attempt", "the original", lineterm="", n=99)))


def restore(name: str) -> None:
    """Put the original back, and keep the attempt beside it."""
    attempt = next(path for n in range(1, 10**6) if not (path := kept(name, f"attempt-{n}")).exists())
    original, (path, _, function) = kept(name).read_text(encoding="utf-8"), find(name)
    atomic_write(attempt, function)
    replace(name, original)
    kept(name).unlink()  # the file may change after that
    print(f"{path}: the original of {name} is back; your attempt: {attempt}")


def main(action: str = "", name: str = "", *more: str) -> int | None:
    """Do what the words of the command line say; return the exit code."""
    actions = dict(start=start, hint=hint, check=check, solution=solution, restore=restore)
    if (action, name) == ("list", ""):
        return show_all()
    if (action, name) == ("restore", "--all"):
        return any(restore(name) for name in EXERCISES if is_started(name))
    if action not in actions or more:
        raise UserError(f"python -m minilm.exercises list, or {', '.join(actions)} and a NAME")
    if name not in EXERCISES:
        raise UserError(f"no exercise {name!r}{suggest(name, EXERCISES)}; `list` shows all")
    if action in ("check", "solution", "restore") and not is_started(name):
        raise UserError(f"{name} is not started; `start {name}`")
    return actions[action](name)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (UserError, OSError) as error:
        print(as_line(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
