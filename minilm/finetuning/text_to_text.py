"""Text to text: the model writes the answer, with no new head (type II).

    encoder-decoder    the encoder reads [CLS] source [SEP]; the decoder reads [CLS] and writes answer [SEP]
    decoder            <|endoftext|> source, a line break, answer <|endoftext|>

    input_ids <|endoftext|> Ana _sold _a _melon . _Who _sold _it ?   \\n          _Ana
    labels                -   -     -  -      - -    -     -   - - _Ana <|endoftext|>

A source may be an instruction, a question with its text, or a text whose label is the answer. Papers: Raffel
et al. 2020, section 2.4, for tasks as texts; Radford et al. 2018, section 3.3, for a token between the parts.
"""

from collections import Counter
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from .. import world
from ..model.generate import generate
from ..plumbing.script import with_bar
from ..tokenizer.rows import END, RaggedRows, alike, decoder_begin, text_end, text_ids
from ..training.metrics import corpus_bleu, exact_match, macro_f1, words
from ..training.objective import IGNORED, to_device
from ..training.vocabulary_loss import vocabulary_loss
from .tasks import LabelledRows, Prediction, Task

ANSWER = "\n"  # between source and answer of a decoder: it says that the answer begins
MOST_LABELS = 20  # different answers of a classification written as text
SENTENCE = 4  # words: of shorter answers BLEU, which counts runs of 4 words, says nothing


class TextToText(Task):
    """A source, and the text that belongs to it.

    A source too long for the context loses its beginning: instruction and question mostly stand at the end.
    The room for answers, `n_answer` tokens, is that of the longest training answer, in training as in use.
    """

    name, metric, baseline = "text-to-text", "exact_match", "commonest answer"
    fields, kinds = ("source", "target"), ("decoder", "encoder-decoder")
    start, least_context, learnt = "denoising", 8, dict(longest_answer=str, labels=tuple[str, ...])
    recipe: ClassVar = dict(n_examples=3000, steps=200, batch_size=32)

    def __init__(self, tokenizer, config, context, known, **options):
        super().__init__(tokenizer, config, context, known, **options)
        self.is_decoder = config.kind == "decoder"
        self.end = text_end(tokenizer) if self.is_decoder else tokenizer.special_id("[SEP]")
        self.pad = tokenizer.special_id(END if self.is_decoder else "[PAD]")
        self.begin = [tokenizer.special_id(END if self.is_decoder else "[CLS]")]
        self.decoder_begin = self.begin if self.is_decoder else decoder_begin(tokenizer)
        # An answer may take half of a decoder's context, all of an encoder-decoder's.
        self.most_answer = context // 2 if self.is_decoder else context - len(self.decoder_begin)
        self.n_answer = max(2, len(self.answer_ids(known["longest_answer"])))

    @classmethod
    def world(cls, n, seed, held_out, domain="stories"):
        """Return n questions, each with its story before it, and their answers."""
        examples = world.questions(n, seed, held_out, domain)
        return [(f"{story} {question}", answer) for story, question, answer, _ in examples]

    @classmethod
    def learn(cls, train, tokenizer):
        """Return the answer of most tokens, and all where they are few, each at least twice: labels."""
        counts = Counter(cls.truths(train))
        # In tokens, not in letters: a short answer of rare letters takes more room than a long one of words.
        longest = max(counts, key=lambda text: (len(tokenizer.encode(" " + text)), text))
        are_labels = len(counts) <= MOST_LABELS and min(counts.values()) > 1
        return dict(longest_answer=longest, labels=sorted(counts) if are_labels else [])

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer with its end; one that had to be cut has none."""
        # After a line break or [CLS] alike a word is the token it is inside a text: the one with a space.
        spaced = self.is_decoder or "[CLS]" in self.tokenizer.special_tokens
        ids = [*self.tokenizer.encode(" " + text if spaced else text, allow_special=False), self.end]
        return ids[: self.most_answer]

    def source_ids(self, text: str, n_answer: int) -> tuple[list[int], bool]:
        """Return the ids that stand before an answer of `n_answer` tokens, and whether the text was cut."""
        ids, after, n_behind = text_ids(self.tokenizer, self.config, text), [self.end], 0
        if self.is_decoder:  # the answer stands in the same row; its end is a label, and no input
            after = self.tokenizer.encode(ANSWER, allow_special=False)
            n_behind = max(n_answer, self.n_answer) - 1
        room = max(0, self.context - len(self.begin) - len(after) - n_behind)
        return [*self.begin, *ids[max(0, len(ids) - room) :], *after], len(ids) > room

    def rows(self, examples):
        """Return the examples as rows: a decoder's hold the answer too."""
        answers = [self.answer_ids(target) for _, target in examples]
        found = [self.source_ids(source, len(a)) for (source, _), a in zip(examples, answers, strict=True)]
        n_cut = sum(was_cut or a[-1] != self.end for (_, was_cut), a in zip(found, answers, strict=True))
        return self.answer_rows([ids for ids, _ in found], answers, n_cut)

    def answer_rows(self, sources, answers, n_cut: int = 0) -> LabelledRows:
        """Return sources and answers, as ids, as rows; a label is the token that follows at its position."""
        given = sources if self.is_decoder else [self.decoder_begin] * len(answers)
        both = list(zip(given, answers, strict=True))
        read = RaggedRows(([*before, *answer[:-1]] for before, answer in both), self.pad, n_cut=n_cut)
        # Why answers alone are labels: the source is given, and learning to write sources would take from
        # learning to write answers. With the answer's end, or the model would never learn to stop.
        labels = RaggedRows(([IGNORED] * (len(before) - 1) + answer for before, answer in both), IGNORED)
        if self.is_decoder:
            return LabelledRows(read, labels)
        # The decoder needs no mask: padding stands after the answer, where the causal mask hides it.
        return LabelledRows(RaggedRows(sources, self.pad, n_cut=n_cut), labels, decoder_input_ids=read)

    def loss(self, model, batch):
        """Return the mean over the answers' tokens in nats; metrics `loss`, and `accuracy` a token."""
        total, right = vocabulary_loss(model, *self.answer_states(model, batch))
        loss = total / batch["n_label"]
        return loss, dict(loss=loss, accuracy=right.sum() / batch["n_label"])

    def answer_states(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the states (N, D) and the labels (N,) of the N positions that have a label, row by row."""
        mask = None if self.is_decoder else batch["attention_mask"]  # padding stands behind what it sees
        given = batch["input_ids"], mask, None, batch.get("decoder_input_ids")
        # A GPU is waited for here, to count: else the head would read the padding behind short answers, too.
        counted = batch["labels"] != IGNORED  # (B, T)
        return model.hidden_states(*given)[-1][counted], batch["labels"][counted]

    def predict(self, model, examples, batch_size):
        """Return the answer to each source, and the probability of all its tokens together."""
        found = [self.source_ids(source, 0) for source, _ in examples]
        prompts, self.n_cut = [ids for ids, _ in found], sum(was_cut for _, was_cut in found)
        answers = self.write(model, prompts, batch_size)
        texts = [self.tokenizer.decode([t for t in ids if t != self.end]).strip() for ids in answers]
        chances = self.probabilities(model, self.answer_rows(prompts, answers), batch_size)
        return [Prediction(*example, *said) for example, *said in zip(examples, texts, chances, strict=True)]

    def write(self, model, prompts: list[list[int]], batch_size: int) -> list[list[int]]:
        """Return the ids of the likeliest answer: up to its end, or to twice the longest training answer."""
        options = dict(temperature=0, eos_id=self.end, pad_id=self.pad, overflow="stop")
        options["forbidden_ids"] = self.tokenizer.never_written(model.config.vocab_size, self.end)
        options |= {} if self.is_decoder else dict(decoder_start_id=self.decoder_begin)
        answers: list[list[int]] = [[]] * len(prompts)
        for chosen in with_bar(alike([len(prompt) for prompt in prompts], batch_size), "answers"):
            written = generate(model, [prompts[i] for i in chosen], 2 * self.n_answer, **options)
            for i, ids in zip(chosen, written, strict=True):
                answers[i] = ids[len(prompts[i] if self.is_decoder else self.decoder_begin) :]
        return answers

    @torch.no_grad()
    def probabilities(self, model, rows: LabelledRows, batch_size: int) -> list[float]:
        """Return for each row the probability that the model gives to the answer after its source."""
        found = [0.0] * len(rows)
        for chosen in alike(rows.lengths, batch_size):
            batch = to_device(rows.batch(chosen), model.tokens.weight.device)
            states, labels = self.answer_states(model, batch)
            log_probs = model.vocabulary_logits(states).float().log_softmax(-1)  # (N, V)
            log_probs = log_probs.gather(1, labels[:, None])[:, 0]  # (N,)
            n_label = (batch["labels"] != IGNORED).sum(1).tolist()  # of each row
            for i, own in zip(chosen, log_probs.split(n_label), strict=True):
                found[i] = own.sum().exp().item()
        return found

    def score(self, truth, guess):
        """Return `exact_match`, white space aside; of labels also `macro_f1`, of sentences `bleu`.

        `not_a_label`: the share of answers that are no label; they are wrong, as in Raffel et al. 2020.
        """
        figures = {"exact_match": exact_match(guess, truth)}
        if self.labels:
            figures["macro_f1"] = macro_f1(truth, guess, {*self.labels, *truth})
            figures["not_a_label"] = sum(text not in self.labels for text in guess) / len(guess)
        elif fmean(len(words(text)) for text in truth) >= SENTENCE:
            figures["bleu"] = corpus_bleu(guess, truth)
        return figures
