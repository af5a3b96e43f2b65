"""Text to text: the model writes the answer, with no new head (type II).

    encoder-decoder    the encoder reads [CLS] source [SEP]; the decoder reads [CLS] and writes answer [SEP]
    decoder            <|endoftext|> source, a line break, answer <|endoftext|>

    input_ids <|endoftext|> Ana _sold _a _melon . _Who _sold _it ?   \\n          _Ana
    labels                -   -     -  -      - -    -     -   - - _Ana <|endoftext|>

A source may be an instruction, a text with a question, or a text whose label is the answer. Sources: Raffel
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
from ..tokenizer.rows import END, RaggedRows, batches_by_length, decoder_begin, framed, text_end, text_ids
from ..training.metrics import corpus_bleu, exact_match, macro_f1, words
from ..training.objective import IGNORED, to_device
from ..training.vocabulary_loss import vocabulary_loss
from .tasks import LabelledRows, Prediction, Task

ANSWER = "\n"  # between source and answer of a decoder: it marks where the answer begins
MOST_LABELS = 20  # with at most so many different answers, the task is a classification
SENTENCE = 4  # words, on average: for shorter answers BLEU, which counts runs of 4 words, says nothing


class TextToText(Task):
    """A source text, and the target text that the model has to write.

    A source that is too long loses its beginning, because instruction and question are mostly at the end. An
    answer gets room for `n_answer` tokens, the longest training answer, in training and in use alike.
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
        self.begin = framed(tokenizer, config, [])[0][:1]
        self.decoder_begin = self.begin if self.is_decoder else decoder_begin(tokenizer)
        # An answer may take half of a decoder's context, all of an encoder-decoder's.
        self.most_answer = context // 2 if self.is_decoder else context - len(self.decoder_begin)
        self.n_answer = max(2, len(self.answer_ids(known["longest_answer"])))

    @classmethod
    def world(cls, n, seed, held_out, domain="stories"):
        """Return n examples: a story followed by a question about it, and the answer."""
        examples = world.questions(n, seed, held_out, domain)
        return [(f"{story} {question}", answer) for story, question, answer, _ in examples]

    @classmethod
    def learn(cls, train, tokenizer):
        """Return the longest answer; and all as labels, if they are few and each occurs at least twice."""
        counts = Counter(cls.truths(train))
        # Longest in tokens, not in characters: a short answer of rare characters may have more tokens.
        longest = max(counts, key=lambda text: (len(tokenizer.encode(" " + text)), text))
        are_labels = len(counts) <= MOST_LABELS and min(counts.values()) > 1
        return dict(longest_answer=longest, labels=sorted(counts) if are_labels else [])

    def answer_ids(self, text: str) -> list[int]:
        """Return the ids of an answer with its end token; an answer that had to be cut has none."""
        # With a space, the first word is the same token after a line break or [CLS] as inside a text.
        spaced = self.is_decoder or "[CLS]" in self.tokenizer.special_tokens
        ids = [*self.tokenizer.encode(" " + text if spaced else text, allow_special=False), self.end]
        return ids[: self.most_answer]

    def source_ids(self, text: str, n_answer: int) -> tuple[list[int], bool]:
        """Return the ids that stand before an answer of `n_answer` tokens, and whether the text was cut."""
        ids, after, n_behind = text_ids(self.tokenizer, self.config, text), [self.end], 0
        if self.is_decoder:  # the answer is in the same row; its last token is a label only, no input
            after = self.tokenizer.encode(ANSWER, allow_special=False)
            n_behind = max(n_answer, self.n_answer) - 1
        room = max(0, self.context - len(self.begin) - len(after) - n_behind)
        return [*self.begin, *ids[max(0, len(ids) - room) :], *after], len(ids) > room

    def rows(self, examples):
        """Return the examples as rows; a decoder's rows hold the answers too."""
        answers = [self.answer_ids(target) for _, target in examples]
        found = [self.source_ids(source, len(a)) for (source, _), a in zip(examples, answers, strict=True)]
        n_cut = sum(was_cut or a[-1] != self.end for (_, was_cut), a in zip(found, answers, strict=True))
        return self.answer_rows([ids for ids, _ in found], answers, n_cut)

    def answer_rows(self, sources, answers, n_cut: int = 0) -> LabelledRows:
        """Return rows of sources and answers (lists of ids); a position's label is the token that follows it.

        Only the answer's tokens are labels, its end included, so that the model learns to stop. The others
        are IGNORED: learning to write sources would take from learning to write answers. A decoder's row is
        source + answer[:-1]; an encoder-decoder's is source, its decoder reads decoder_begin + answer[:-1].
        """
        given = sources if self.is_decoder else [self.decoder_begin] * len(answers)
        both = list(zip(given, answers, strict=True))
        read = RaggedRows(([*before, *answer[:-1]] for before, answer in both), self.pad, n_cut=n_cut)
        labels = RaggedRows(([IGNORED] * (len(before) - 1) + answer for before, answer in both), IGNORED)
        if self.is_decoder:
            return LabelledRows(read, labels)
        # The decoder needs no mask: padding stands after the answer, where the causal mask hides it.
        return LabelledRows(RaggedRows(sources, self.pad, n_cut=n_cut), labels, decoder_input_ids=read)

    def loss(self, model, batch):
        """Return the mean cross-entropy of answer tokens in nats; metrics: `loss`, `accuracy` (of tokens)."""
        total, right = vocabulary_loss(model, *self.answer_states(model, batch))
        loss = total / batch["n_label"]
        return loss, dict(loss=loss, accuracy=right.sum() / batch["n_label"])

    def answer_states(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return hidden states (N, D) and labels (N,) of the N positions that have a label, row by row."""
        mask = None if self.is_decoder else batch["attention_mask"]  # padding is on its right, out of sight
        given = batch["input_ids"], mask, None, batch.get("decoder_input_ids")
        # To select, the CPU waits for the GPU; but then the vocabulary head skips positions without a label.
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
        """Return the ids of greedy answers: up to the end token, or to twice the longest training answer."""
        options = dict(temperature=0, eos_id=self.end, pad_id=self.pad, overflow="stop")
        options["forbidden_ids"] = self.tokenizer.never_written(model.config.vocab_size, self.end)
        options |= {} if self.is_decoder else dict(decoder_start_id=self.decoder_begin)
        answers: list[list[int]] = [[]] * len(prompts)
        for chosen in with_bar(batches_by_length([len(prompt) for prompt in prompts], batch_size), "answers"):
            written = generate(model, [prompts[i] for i in chosen], 2 * self.n_answer, **options)
            for i, ids in zip(chosen, written, strict=True):
                answers[i] = ids[len(prompts[i] if self.is_decoder else self.decoder_begin) :]
        return answers

    @torch.no_grad()
    def probabilities(self, model, rows: LabelledRows, batch_size: int) -> list[float]:
        """Return for each row the probability that the model gives to the answer after its source."""
        found = [0.0] * len(rows)
        for chosen in batches_by_length(rows.lengths, batch_size):
            batch = to_device(rows.batch(chosen), model.tokens.weight.device)
            states, labels = self.answer_states(model, batch)
            log_probs = model.vocabulary_logits(states).float().log_softmax(-1)  # (N, V)
            log_probs = log_probs.gather(1, labels[:, None])[:, 0]  # (N,)
            n_label = (batch["labels"] != IGNORED).sum(1).tolist()  # for each row
            for i, own in zip(chosen, log_probs.split(n_label), strict=True):
                found[i] = own.sum().exp().item()
        return found

    def score(self, truth, guess):
        """Return `exact_match`, white space aside; for labels also `macro_f1`, for sentences `bleu`.

        `not_a_label`: the share of answers that are not labels; they are wrong, as in Raffel et al. 2020.
        """
        figures = {"exact_match": exact_match(guess, truth)}
        if self.labels:
            figures["macro_f1"] = macro_f1(truth, guess, {*self.labels, *truth})
            figures["not_a_label"] = sum(text not in self.labels for text in guess) / len(guess)
        elif fmean(len(words(text)) for text in truth) >= SENTENCE:
            figures["bleu"] = corpus_bleu(guess, truth)
        return figures
