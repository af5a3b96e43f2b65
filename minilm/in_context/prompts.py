"""Regime 6: a model reads examples in its prompt and labels the text after them. No weight moves.

    examples, text -> prompt           PromptFormat
    prompts -> scores of the labels    label_scores
    questions -> right or wrong        answers, accuracy
    several draws -> mean and bounds   Interval

Source: Brown et al. 2020, "Language Models are Few-Shot Learners", section 2.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import torch
from torch import Tensor

from ..model.config import ModelConfig
from ..model.draft import pad
from ..model.generate import check_decoder, check_prompt, evaluation_mode
from ..model.sampling import next_token_distributions
from ..plumbing.errors import UserError
from ..tokenizer.rows import END, decoder_begin, prompt_ids, text_ids

SCORES = ("sum", "mean", "calibrated")
CONTROLS = ("gold", "shuffled", "random")
CONTENT_FREE = ("N/A", "[MASK]", "")  # texts that call for no label: Zhao et al. 2021, section 5
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # Student's t, 1 to 9 degrees of freedom


@dataclass(frozen=True)
class Question:
    """A text to be labelled, and the examples that stand before it."""

    examples: tuple[tuple[str, str], ...]  # (text, label)
    text: str
    label: str  # the right one


@dataclass(frozen=True)
class PromptFormat:
    """How examples and a text become a prompt.

    Raises:
        UserError: for a template without {text} before {label}, or words that are missing, empty or equal.
    """

    words: dict[str, str]  # label -> what it is called in the prompt
    template: str = "{text} : {label}"
    separator: str = "\n"  # between examples

    def __post_init__(self):
        parts = self.template.partition("{label}")
        if "{text}" not in parts[0] or not parts[1]:
            raise UserError(f"--template {self.template!r}: must have {{text}} and, after it, {{label}}")
        if len(self.words) < 2:
            raise UserError(f"one label alone ({', '.join(self.words)}): nothing to choose from; give two")
        for label, word in self.words.items():
            others = [other for other, same in self.words.items() if same == word and other != label]
            if not word.strip() or others:
                what = "is empty" if not word.strip() else f"stands for {others[0]} too"
                raise UserError(f"the word {word!r} of the label {label} {what}: each label needs its own")

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the scores."""
        return list(self.words)

    def prompt(self, question: Question) -> str:
        """Return the examples and the text, up to where the label is due.

        A space before the label goes with the label: for a byte-level BPE the two are one token.
        """
        before, _, after = self.template.partition("{label}")
        shown = [before.replace("{text}", text) + self.words[y] + after for text, y in question.examples]
        return self.separator.join([*shown, before.replace("{text}", question.text).rstrip(" ")])

    def continuations(self) -> list[str]:
        """Return what each label looks like where it is due."""
        before = self.template.partition("{label}")[0]
        return [" " * before.endswith(" ") + word for word in self.words.values()]

    def ending(self) -> str:
        """Return what follows a label in a prompt."""
        before, _, after = self.template.partition("{label}")
        return after + self.separator + before.partition("{text}")[0]


def label_tokens(tokenizer, prompt_format: PromptFormat, config: ModelConfig) -> list[tuple[int, ...]]:
    """Return the ids of each label.

    Where one label begins another ("new", "news"), each gets the token that follows a label in the prompt:
    without it the shorter one, being a part of the longer, could never be the less likely.
    """
    if config.kind == "decoder":
        labels = [tuple(tokenizer.encode(text, False)) for text in prompt_format.continuations()]
        follows = tokenizer.encode(prompt_format.ending(), False) or [tokenizer.special_id(END)]
    else:
        labels = [tuple(text_ids(tokenizer, config, word)) for word in prompt_format.words.values()]
        follows = [tokenizer.special_id("[SEP]")]
    nested = any(a != b and b[: len(a)] == a for a in labels for b in labels)
    return [(*label, follows[0]) for label in labels] if nested else labels


def prompt_length(tokenizer, config: ModelConfig, prompt_format: PromptFormat, question: Question) -> int:
    """Return the positions that a question needs: those of its prompt and, in a decoder, of its labels."""
    length = len(prompt_ids(tokenizer, config, prompt_format.prompt(question)))
    if config.kind != "decoder":
        return length
    return length + max(map(len, label_tokens(tokenizer, prompt_format, config))) - 1


def decoder_start(tokenizer, config: ModelConfig) -> list[int]:
    """Return what an encoder-decoder's decoder begins with, nothing for other models."""
    return decoder_begin(tokenizer) if config.kind == "encoder-decoder" else []


@torch.inference_mode()
def label_log_likelihoods(
    model, tokenizer, prompts: Sequence[str], labels: list[tuple[int, ...]], batch_size: int = 128
) -> Tensor:
    """Return log p(tokens of the label | prompt) in nats, (N, n_label); a decoder continues the prompt.

    An encoder-decoder's encoder reads the prompt, and its decoder writes the label. Equal prompts are read
    once.

    Raises:
        UserError: for an encoder, which cannot continue a text, and for a prompt longer than the positions.
    """
    check_decoder(model)
    distinct = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    rows = [prompt_ids(tokenizer, model.config, prompt) for prompt in distinct]
    longest = 0 if model.encoder is not None else max(map(len, labels)) - 1
    for row in rows:
        check_prompt(row + [0] * longest, "a prompt with its examples", model.config)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # equal lengths need no padding
    result = torch.empty(len(rows), len(labels))
    start = decoder_start(tokenizer, model.config)
    with evaluation_mode(model):
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            result[chosen] = batch_likelihoods(model, [rows[i] for i in chosen], labels, start).cpu()
    return result[[distinct[prompt] for prompt in prompts]]


def batch_likelihoods(model, prompts: list[list[int]], labels: list[tuple[int, ...]], start) -> Tensor:
    """Return (B, n_label) for one batch of prompts.

    Labels that differ in their last token only are scored together, so labels of one token cost one pass.
    """
    device = model.tokens.weight.device
    encoder_ids = encoder_mask = None
    if model.encoder is not None:
        encoder_ids, encoder_mask = pad(prompts, 0, "right", device)
        prompts = [start] * len(prompts)
    scores = torch.empty(len(prompts), len(labels), device=device)
    for head in {label[:-1] for label in labels}:
        # The column of the last token is a filling: what is asked is its distribution.
        ids, mask = pad([[*prompt, *head, 0] for prompt in prompts], 0, "left", device)  # (B, S + L)
        n_prompt = ids.shape[1] - len(head) - 1
        log_probs = next_token_distributions(
            model, ids, mask, encoder_ids, encoder_mask, n_prompt=n_prompt
        )  # (B, L, V)
        of_head = sum(
            (log_probs[:, t, token] for t, token in enumerate(head)), torch.zeros((), device=device)
        )
        places = [i for i, label in enumerate(labels) if label[:-1] == head]
        last = log_probs[:, -1, [labels[i][-1] for i in places]]  # (B, labels with this head)
        scores[:, places] = of_head[..., None] + last
    return scores


def label_scores(model, tokenizer, prompt_format: PromptFormat, questions, score: str = "sum") -> Tensor:
    """Return the score of each label for each question, (N, n_label); the highest is the answer.

    `sum` is the log-likelihood of the label's tokens and `mean` is that per token (Brown et al. 2020, section
    2.4). `calibrated` divides the probability of a label, among all labels, by what it has where the text
    says nothing (Zhao et al. 2021, "Calibrate Before Use", section 5). Differs from that paper: the whole
    label counts, not its first token.
    """
    labels = label_tokens(tokenizer, prompt_format, model.config)

    def likelihoods(asked: Sequence[Question]) -> Tensor:
        return label_log_likelihoods(model, tokenizer, [prompt_format.prompt(q) for q in asked], labels)

    scores = likelihoods(questions)
    if score == "mean":
        return scores / torch.tensor([len(label) for label in labels])
    if score == "calibrated":
        free = [likelihoods([replace(q, text=text) for q in questions]) for text in CONTENT_FREE]
        expected = torch.stack([values.softmax(-1) for values in free]).mean(0)  # (N, n_label)
        return scores.log_softmax(-1) - expected.log()
    return scores


def answers(model, tokenizer, prompt_format: PromptFormat, questions, score: str = "sum") -> list[str]:
    """Return the label that the model gives to each question."""
    best = label_scores(model, tokenizer, prompt_format, questions, score).argmax(-1).tolist()
    return [prompt_format.labels[i] for i in best]


def accuracy(model, tokenizer, prompt_format: PromptFormat, questions, score: str = "sum") -> float:
    """Return the share of the questions that the model answers right."""
    given = answers(model, tokenizer, prompt_format, questions, score)
    return mean(float(a == q.label) for a, q in zip(given, questions, strict=True))


def draw_questions(examples, tests, k: int, seed: int) -> list[Question]:
    """Return a question for each (text, label) of `tests`, all after the same k examples.

    The seed draws the examples and their order; k examples of a seed begin its k + 1 examples.

    Raises:
        UserError: where there are fewer than k examples.
    """
    if not 0 <= k <= len(examples):
        raise UserError(f"--shots {k}: must be from 0 to {len(examples)}, the number of examples")
    order = random.Random(f"examples {seed}").sample(range(len(examples)), len(examples))
    chosen = tuple(examples[i] for i in order[:k])
    return [Question(chosen, text, label) for text, label in tests]


def relabelled(
    questions: Sequence[Question], control: str, labels: Sequence[str], seed: int
) -> list[Question]:
    """Return the questions with other labels in their examples: the controls of Min et al. 2022.

    "gold": as they are. "shuffled": the labels of all examples of all questions, dealt out anew. Their
    frequencies stay, what they say is gone; shuffled inside one prompt of two labels, half would still be
    right. "random": any label (Min et al. 2022, "Rethinking the Role of Demonstrations", section 4).
    """
    given = [label for question in questions for _, label in question.examples]
    draw = random.Random(f"{control} labels {seed}")
    if control == "shuffled":
        draw.shuffle(given)
    if control == "random":
        given = draw.choices(list(labels), k=len(given))
    new = iter(given)
    return [replace(q, examples=tuple((text, next(new)) for text, _ in q.examples)) for q in questions]


def accuracy_by_shots(
    model, tokenizer, prompt_format: PromptFormat, draw, shots, control: str, n_draw: int, score: str
) -> dict[int, "Interval"]:
    """Return the accuracy for each number of examples; `draw(k, seed)` gives the questions of one draw.

    Under a control nothing is asked without examples: there are no labels to change.
    """
    found = {}
    for k in shots if control == "gold" else filter(None, shots):
        values = []
        for seed in range(n_draw):
            asked = relabelled(draw(k, seed), control, prompt_format.labels, seed)
            values.append(accuracy(model, tokenizer, prompt_format, asked, score))
        found[k] = Interval.of(values)
    return found


@dataclass(frozen=True)
class Interval:
    """The mean over several draws, and the half width of its 95 % confidence interval (Student's t)."""

    mean: float
    half: float | None  # none: one draw says nothing about the spread

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return the interval of the values of independent draws."""
        n = len(values)
        if n < 2:
            return cls(mean(values), None)
        degrees = n - 1  # above 9, the first terms of a series in 1 / degrees are right to 0.01
        t = T_975[degrees - 1] if degrees <= len(T_975) else 1.96 + 2.37 / degrees + 2.82 / degrees**2
        return cls(mean(values), t * stdev(values) / math.sqrt(n))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.half is None else f" ±{self.half:.3f}")


def checksum(model) -> str:
    """Return 16 hexadecimal digits that change with any bit of any weight (SHA-256)."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().cpu().flatten()
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
