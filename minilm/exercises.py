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
FUNCTION += r"(?P<body>(?:\n*(?P=indent) +\S.*\n?)*)"
# A test that takes longer than 8 seconds is ended, with the line at which it was (pytest 9).
PYTEST = [sys.executable, "-m", "pytest", "-x", "--tb=native", "-o", "faulthandler_timeout=8"]
PYTEST += ["-o", "faulthandler_exit_on_timeout=true", "-k"]


class Exercise(NamedTuple):
    """A function to write: FILE:NAME below minilm/; pytest's -k for its tests in tests/ROOM/test_FILE*.py."""

    level: int  # 1 a line or two, 2 an idea, 3 several ideas
    function: str
    tests: str
    hints: tuple[str, ...]  # steps in words, the last nearly the code


# In the order of the lecture.
# fmt: off
EXERCISES = {
    "causal-mask": Exercise(1, "model/attention.py:causal_mask", "causal_mask_is", (
        "Of S positions the queries are the last T.", "Compare positions, (S,) with (T, 1).")),
    "alibi": Exercise(2, "model/attention.py:alibi_bias", "alibi_bias_is", (
        "The queries are the last T of the S positions. The distance |key - query| is (T, S).",
        "A slope a head, ALIBI_SLOPES[h % 4]: -slopes[:, None, None] * distance is (H, T, S).")),
    "rope": Exercise(2, "model/attention.py:rotate", "a_pair_is_turned or positions_of_each_row", (
        "cos_sin holds cosines and sines; x.chunk(2, dim=-1) gives the partners a and b of all pairs.",
        "A turn: a cos - b sin and b cos + a sin, side by side again by torch.cat.")),
    "attention": Exercise(1, "model/attention.py:explicit_attention", "explicit_equals or dropout_takes", (
        "Few heads of keys and values: repeat_interleave each H / n_kv_head times, along the heads.",
        "Scores q @ k.transpose(-2, -1) / sqrt(d_head), plus the bias; later keys get BLOCKED (masked_fill).",
        "Softmax over the keys, dropout, and weights @ v; return both.")),
    "cache": Exercise(2, "model/attention.py:KeyValueCache.append", "cache_returns", (
        "At the first call make k and v with room for max_length positions, by k.new_empty.",
        "Copy the new ones behind the `length` that are there, count up, return those of all so far.")),
    "heads": Exercise(1, "model/attention.py:MultiHeadAttention.split_heads", "split_heads", (
        "Head h takes the numbers h * d_head to (h + 1) * d_head of each position: cut the last axis first.",
        "unflatten(2, (-1, d_head)) gives (B, T, H, d_head); then the heads go before the positions.")),
    "sinusoids": Exercise(1, "model/blocks.py:sinusoidal_positions", "sinusoids", (
        "The angle of position p in columns 2i and 2i + 1 is p / 10000^(2i / D): (n, 1) * (D / 2,).",
        "table[:, 0::2] takes the sines, table[:, 1::2] the cosines; an odd D has one cosine fewer.")),
    "block-norm": Exercise(1, "model/blocks.py:Block.add", "norm_stands or dropout_falls", (
        "Post: norm(x + part(x)). Pre: x + part(norm(x)). `part` also gets *args and **options.",
        "What the part gives goes through self.dropout while training; the stream x never does.")),
    "residual-init": Exercise(2, "model/transformer.py:Transformer.shrink_residual_outputs", "residual", (
        "Pre-norm only, each stack by itself. What adds: `out` of each attention, `down` of feed-forward.",
        "layer.weight.data.mul_(n ** -0.5), n = additions of a block * blocks of the stack.")),
    "temperature": Exercise(2, "model/sampling.py:SamplingRule.log_probabilities", "temperature or in_order", (
        "In order: forbidden tokens to -inf, logits / temperature, top-k, top-p, log_softmax.",
        "Temperature 0 is greedy: log-probability 0 for the likeliest token, -inf for all others.")),
    "top-p": Exercise(2, "model/sampling.py:keep_top_p", "top_p", (
        "Sort downwards; before each token stands what the likelier ones have together.",
        "A token stays where that is below p: the one that crosses p stays, none behind exactly p.",
        "The last one kept is the least logit that stays; mask what is smaller with NEVER.")),
    "bpe-merges": Exercise(1, "tokenizer/bpe.py:train_naive", "naive and (by_hand or run_out)", (
        "Begin with each word as a list of its bytes; count each pair of neighbours as often as its word.",
        "Note the best, max by (count, pair), `join` it in every word, count anew, until no pair is left.")),
    "wordpiece": Exercise(1, "tokenizer/wordpiece.py:WordPiece.encode_word", "longest_piece", (
        "From `start`, try the longest piece first: end = len(word), then one less, until _ids has it.",
        "Behind the first piece look for '##' + word[start:end]. None fits: the whole word is [UNK].")),
    "80-10-10": Exercise(1, "pretraining/masked.py:Masked.hide", "80_10_10", (
        "One draw in [0, 1) for each place decides: below 0.8 [MASK], below 0.9 a random ordinary token.",
        "np.nonzero(counted) gives row and place of what is hidden; write into a copy of ids.")),
    "whole-words": Exercise(3, "pretraining/masked.py:whole_words", "words_that_do_not_fit or are_hidden", (
        "Neighbours with the same draw are one word: number the words of a row, count the tokens of each.",
        "Go through the words in order: take one if it has tokens, and no more than are left to hide.",
        "If none was taken, take the first whole. Back to tokens: taken[row, word], and draws < 1.")),
    "sentence-pairs": Exercise(2, "pretraining/next_sentence.py:SentencePairs.rows", "true_b or chosen", (
        "B is from the run `chosen`, or from second_runs(chosen, rng). [CLS] A [SEP] B [SEP]: where is each?",
        "ids[start + place - 1] is A from place 1 on, ids[border + place - a - 2] is B from a + 2 on.")),
    "infilling": Exercise(2, "pretraining/noise.py:infilling", "infilling or longer_than", (
        "First how many spans: SHARE * n / MEAN_SPAN, rounded at random; then their lengths, Poisson, cut.",
        "A gap for each between what is kept; from the left: out[start : start + length] = [MASK].")),
    "label-smoothing": Exercise(1, "pretraining/translation.py:smoothed_cross_entropy", "smoothing_equals", (
        "plain: minus the log-probability of each label (gather), IGNORED ones left out.",
        "uniform: minus the mean over V; smoothed = (1 - smoothing) * plain + smoothing * uniform.")),
    "windows": Exercise(2, "pretraining/causal.py:overlapping_windows", "validation_labels_each", (
        "n_label = len(stream) - 1; one window every max(1, T // 2) places; the last reaches the end.",
        "starts[:, None] + np.arange(T) are places (N, T): inputs stand there, labels one later.",
        "IGNORED: labels behind the text's end, and in all windows but the first the first T - T // 2.")),
    "soft-targets": Exercise(2, "pretraining/distillation.py:soft_target_loss", "soft_targets", (
        "log_softmax of both logits / T; the teacher's probabilities are the exp of its logarithms.",
        "T^2 times the sum over counted places of sum over V of p (log p - log q), p the teacher's.")),
    "schedule": Exercise(1, "training/loop.py:learning_rate", "warm_up_rises or each_schedule", (
        "Steps count from 0: in the warm-up the rate is lr (step + 1) / warmup, at its last step lr.",
        "done is 0 there and 1 one step after the last: (step - warmup + 1) / (steps - warmup + 1).",
        "lr times 1 - done, (1 + cos(pi done)) / 2, sqrt(warmup / (step + 1)) or 1.")),
    "decay": Exercise(2, "training/loop.py:make_optimizer", "every_moving_weight or frozen_weights", (
        "Only weights with requires_grad; group those with equal share, start and kind (vector or matrix).",
        "A group is a dict: params, weight_decay (0 for vectors, p.dim() < 2), share, first_step, by_muon.",
        "torch.optim.AdamW(groups, lr=0.0, betas=BETAS): each step sets the rate. Muon for `which` muon.")),
    "train-step": Exercise(3, "training/loop.py:train_step",
        "micro_batches_give or clipping_sh or each_step or that_is_clipped or dropout_dep", (
        "One manual_seed of (seed, step, rank), one batch; for each of this process's parts loss, backward.",
        "The parts' gradients add up in p.grad; add_metrics adds what is told. Nothing is divided.",
        "Then: rates of the groups, clip, step, zero_grad. Resting weights: p.grad = None before the clip.")),
    "replay": Exercise(2, "continued/forgetting.py:with_replay", "replay_mixes", (
        "share = wanted / (wanted + domain.train_bytes): solve for the bytes that are wanted.",
        "Add general documents in random order, all anew where they run out, until so many bytes are there.",
        "Shuffle both in a new list; replace(domain, train=...) leaves the validation part.")),
    "new-rows": Exercise(2, "continued/new_tokens.py:extend_vocabulary", "old_tokens_keep", (
        "Build a model with a larger vocab_size; what differs in shape from the old state grows by rows.",
        "torch.cat([old, added]), a new_row(old, how) each; the bias (V,) is a matrix (V, 1) for it.")),
    "pooling": Exercise(1, "model/pooling.py:token_mean", "pooling_reads or without_a_mask", (
        "Padding must not count, neither in the sum nor in the number: the mask has 1 for real tokens.",
        "(hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True); no mask: hidden.mean(1).")),
    "probe": Exercise(3, "extraction/probe.py:fit", "at_its_own_minimum", (
        "W (R, P, D, C) and b (R, P, 1, C) begin at 0; `nats` gives -log p(label), (R, P, N).",
        "Loss: mean by `weight` (each row of it sums to 1) + l2 / 2 |W|^2 of each problem, all summed.",
        "torch.optim.LBFGS([W, b], max_iter=steps, line_search_fn='strong_wolfe').step(closure).")),
    "lora": Exercise(1, "finetuning/lora.py:LoRALinear.forward", "equation_3", (
        "What the layer computed before comes first: F.linear(x, self.weight, self.bias).",
        "Plus self.scale times B A x: F.linear by lora_a, then by lora_b, without a bias.")),
    "best-span": Exercise(2, "finetuning/span.py:best_span", "slow_search", (
        "sums[i, j] = begin[i] + end[j] is the score of every span at once, (T, T).",
        "Begins before it ends: .triu(); at most `longest` tokens, both ends among them: .tril(longest - 1).",
        "Others get -inf; .flatten().max(0) gives score and place, divmod(place, T) row and column.")),
    "span-windows": Exercise(3, "finetuning/span.py:Span.windows",
        "widened_to or one_window or windows_that_overlap or label_where or shortest_rows", (
        "located_ids gives ids and letters; room = context - what `framed` puts before the text - a last [SEP].",
        "A window every room // 2 tokens (1 at least), the last one reaches the text's end.",
        "Its label: n_before + place - start of the answer's first and last token if all are in it, else [0, 0].")),
    "entities": Exercise(3, "training/metrics.py:entities", "test_entities", (
        "Go through neighbours (last, this) of the tags, with an O before the first and behind the last one.",
        "An entity ends behind E or S, before B, S or O, and where the type changes.",
        "One begins at any tag but O where none is open, or one has just ended: I begins one too.")),
    "answer-labels": Exercise(2, "finetuning/text_to_text.py:TextToText.answer_rows", "sources_with_their", (
        "The decoder reads what is given, then the answer without its last token.",
        "A label is the token that follows: IGNORED len(before) - 1 times, then the whole answer, its end too.",
        "A decoder's row is both; an encoder-decoder has the source as row, decoder_begin before the answer.")),
    "bradley-terry": Exercise(1, "reinforcement/preferences.py:PairObjective.loss", "bradley_and_terry", (
        "The margin is r(chosen) - r(rejected); its sigmoid: how probable that people prefer the first.",
        "The loss is the mean of -log of that; F.logsigmoid is both in one, and never log 0.",
        "Each metric is a sum over the pairs / n_pair, `loss` too; accuracy counts the margins above 0.")),
    "token-rewards": Exercise(2, "reinforcement/ppo.py:token_rewards", "2_and_4 or 2_the or 4_the or 5_an", (
        "Which column is the last token's? That with number lengths - 1, another one in each row.",
        "Each token pays kl_coefficient (log pi - log ref); without kl_per_token the last one pays the sum.",
        "scores[:, None] * (column == lengths - 1) - kl_coefficient * kl, after those of unended answers.")),
    "gae": Exercise(3, "reinforcement/ppo.py:advantages", "6_advantages", (
        "Go from the last column to the first, and carry V and A of the token that follows.",
        "delta = r_t + gamma V_(t+1) - V_t, then A_t = delta + gamma lambda A_(t+1).",
        "Behind the end V and A are 0: multiply the values, and each A_t, by the mask.")),
    "whitening": Exercise(2, "reinforcement/ppo.py:whiten", "test_7_whitening", (
        "Mean and deviation are those of the real tokens: `masked_mean` gives the first.",
        "The variance is the masked mean of (x - mean)^2; add 1e-8 before the root: nothing divides by 0.",
        "((x - mean) / deviation, + mean where it is to stay) * mask")),
    "clipped-loss": Exercise(3, "reinforcement/ppo.py:ppo_loss", "8_the_loss", (
        "policy(ids, mask, n_prompt, rule) gives log-probabilities, values; the ratio is exp(new - batch's).",
        "Of ratio A and clip(ratio, 1 - e, 1 + e) A the smaller counts: minus its mean. e 0: infinity.",
        "A value may move clip_value from the batch's; the larger squared error counts, half its mean.")),
    "grpo": Exercise(2, "reinforcement/grpo.py:group_advantages", "mean_of_its_group", (
        "What an answer earned is the sum of its tokens' rewards, one number a row.",
        "view(-1, group_size) puts the answers to a prompt into one row: take the mean of each row off.",
        "Back to (B, 1), then times the mask: each real token of an answer has the answer's advantage.")),
    "dpo-answers": Exercise(2, "reinforcement/dpo.py:answer_log_probabilities", "only_the_answer", (
        "Both answers of B pairs are 2 B texts (2 B, T) for `token_log_probabilities`: 0 for padding.",
        "It has T - 1 columns: the first token is never scored, column i is the token in place i + 1.",
        "Sum the columns whose token stands in place n_prompt or later.")),
    "dpo": Exercise(1, "reinforcement/dpo.py:DirectPreference.rewards", "equals_the_formula", (
        "Call `answer_log_probabilities` for the policy, and for the reference without gradients.",
        "beta * (log pi - log reference)")),
    "label-scores": Exercise(2, "in_context/scores.py:label_scores", "their_formulas or all_but_impossible", (
        "sum: `label_log_likelihoods` of each question's prompt; mean: / the number of the label's tokens.",
        "calibrated: p(label) / its mean over the prompts with the texts CONTENT_FREE in the question's place.",
        "In logarithms: log_softmax(-1), less logsumexp over the three log_softmax(-1) - log 3.")),
    "likelihood": Exercise(3, "in_context/scores.py:batch_likelihoods", "one_text_at_a_time", (
        "log p(label) is a sum over its tokens, each asked behind the prompt and the tokens before it.",
        "Padded on the left, prompt + label stand in the same columns: `next_token_distributions`, n_prompt.",
        "Labels equal but for the last token need one pass. With caches: `hidden` by model.decode on copies.")),
    "controls": Exercise(2, "in_context/prompts.py:relabelled", "same_new_labels or examples_alone", (
        "List all labels of all examples; where all questions share their examples, those of one.",
        "shuffled: rng.shuffle that list. random: rng.choices of `labels`, the right one among them.",
        "Give them out in order; cycle() begins again where the examples are shared.")),
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
    for name, (level, function, *_) in EXERCISES.items():
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
    hints, n = EXERCISES[name].hints, int(held(name, "hints") or 0)
    print(f"{n + 1} of {len(hints)}: {hints[n]}")
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
