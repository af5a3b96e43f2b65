"""Text to text: the model writes the answer, with no new head (type II).

    encoder-decoder    the encoder reads [CLS] source [SEP]; the decoder reads [CLS] and writes answer [SEP]
    decoder            <|endoftext|> source, a line break, answer <|endoftext|>

A source may be an instruction, a question with its text, or a text whose label is the answer. A decoder reads
it in one row with the answer, but **the loss is on the answer only**, its end included: the source is given,
and learning to write sources would take from learning to write answers. Papers: Raffel et al. 2020, section
2.4, for tasks as texts; Radford et al. 2018, section 3.3, for rows with a token between their parts.
"""

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from .. import world
from ..model.generate import generate
from ..plumbing.errors import UserError
from ..texts.files import kind, read_jsonl, read_text
from ..texts.tables import read_table
from ..tokenizer.rows import END, RaggedRows, alike, decoder_begin, text_ids
from ..training.bleu import corpus_bleu, exact_match, words
from ..training.metrics import macro_f1
from ..training.objective import IGNORED, count_correct, summed_cross_entropy, tensors
from .tasks import Prediction, Rows, Task, device_of

FIELDS = (("source", "target"), ("prompt", "response"))
ANSWER = "\n"  # between source and answer of a decoder: it says that the answer begins
MOST_LABELS = 20  # different answers of a classification written as text
SENTENCE = 4  # words: of shorter answers BLEU, which counts runs of 4 words, says nothing


class TextToText(Task):
    """A source, and the text that belongs to it.

    A source too long for the context loses its beginning, since instruction and question mostly stand at the
    end, and the answer is kept. The room for answers, `n_answer` tokens, is that of the longest training
    answer, in training as in use, so that a long source is cut at the same place in both.
    """

    name, metric, kinds = "text-to-text", "exact_match", ("decoder", "encoder-decoder")
    start = "denoising"
    columns = "source and target, or prompt and response (.tsv, .csv, .jsonl)"
    n_beam = 1  # answers are the likeliest token each time; above 1: beam search

    def __init__(self, tokenizer, config, context, known=None):
        super().__init__(tokenizer, config, context, known)
        self.is_decoder = config.kind == "decoder"
        self.end, self.pad = map(tokenizer.special_id, (END, END) if self.is_decoder else ("[SEP]", "[PAD]"))
        self.begin = [tokenizer.special_id(END if self.is_decoder else "[CLS]")]
        # What the decoder is given before it writes.
        self.decoder_begin = self.begin if self.is_decoder else decoder_begin(tokenizer)
        self.specials = {tokenizer.special_id(token) for token in tokenizer.special_tokens}
        # An answer may take half of a decoder's context, all of an encoder-decoder's.
        self.most_answer = context // 2 if self.is_decoder else context - len(self.decoder_begin)
        if self.most_answer < 2:
            raise UserError(f"--context {context}: too short for a source and an answer; give 8 or more")
        longest = self.answer_ids(self.known.get("longest_answer", ""))[0]
        self.n_answer = max(2, len(longest))

    @classmethod
    def read(cls, path, skip_bad=False, truth=True):
        """Return (examples, n_skipped) of a table of pairs, or of instructions and their responses."""
        fields = fields_of(path)
        rows, n_skipped = read_table(path, fields if truth else fields[:1], skip_bad)
        return (rows if truth else [(*row, None) for row in rows]), n_skipped

    @classmethod
    def world(cls, n, seed, held_out):
        """Return n questions, each with its story before it, and their answers."""
        examples = world.questions(n, seed, held_out)
        return [(f"{story} {question}", answer) for story, question, answer, _ in examples]

    @classmethod
    def learn(cls, train):
        """Return the longest answer, and where the answers are labels, all of them.

        They are labels where there are few (`MOST_LABELS`), each of them two times or more.
        """
        counts = Counter(target for _, target in train)
        if len(counts) < 2:
            raise UserError(
                f"all {len(train)} training examples have the answer {str(*counts)[:40]!r}: nothing to learn"
            )
        known = dict(longest_answer=max(counts, key=lambda text: (len(text.encode()), text)))
        if len(counts) <= MOST_LABELS and min(counts.values()) > 1:
            known["labels"] = sorted(counts)
        return known

    @classmethod
    def trivial(cls, train, test):
        """Return the commonest answer, for every test example."""
        commonest = Counter(target for _, target in train).most_common(1)[0][0]
        return "commonest answer", [commonest] * len(test)

    def answer_ids(self, text: str) -> tuple[list[int], bool]:
        """Return the ids of an answer with its end, and whether it had to be cut: then it has none."""
        # After a line break or [CLS] alike a word is the token it is inside a text: the one with a space.
        ours = self.is_decoder or "[CLS]" in self.tokenizer.special_tokens
        ids = [*self.tokenizer.encode(" " + text if ours else text, allow_special=False), self.end]
        return ids[: self.most_answer], len(ids) > self.most_answer

    def source_ids(self, text: str, n_answer: int) -> tuple[list[int], bool]:
        """Return the ids that stand before an answer of `n_answer` tokens, and whether the text was cut."""
        ids = text_ids(self.tokenizer, self.config, text)
        if self.is_decoder:
            after = self.tokenizer.encode(ANSWER, allow_special=False)
            # The answer's end is a label, and no input.
            room = self.context - len(self.begin) - len(after) - max(n_answer, self.n_answer) + 1
        else:
            after, room = [self.end], self.context - len(self.begin) - 1
        room = max(0, room)
        return [*self.begin, *ids[max(0, len(ids) - room) :], *after], len(ids) > room

    def rows(self, examples):
        """Return the examples as rows; without a truth there is nothing to learn from them."""
        answers = [self.answer_ids(target) for _, target in examples]
        sources = [
            self.source_ids(example[0], len(a)) for example, (a, _) in zip(examples, answers, strict=True)
        ]
        n_cut = sum(source[1] or answer[1] for source, answer in zip(sources, answers, strict=True))
        return AnswerRows(self, [ids for ids, _ in sources], [ids for ids, _ in answers], n_cut)

    def loss(self, model, batch):
        """Return the mean over the answers' tokens in nats; metrics `loss`, and `accuracy` a token."""
        logits, labels = self.answer_logits(model, batch)
        loss = summed_cross_entropy(logits, labels) / batch["n_label"]
        return loss, {"loss": loss, "accuracy": count_correct(logits, labels) / batch["n_label"]}

    def answer_logits(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits (N, V) and the labels (N,) of the N positions that have a label, row by row."""
        states = model.hidden_states(
            batch["input_ids"], batch["attention_mask"], decoder_input_ids=batch.get("decoder_input_ids")
        )
        counted = batch["labels"] != IGNORED  # (B, T)
        return model.vocabulary_logits(states[-1][counted]), batch["labels"][counted]

    def predict(self, model, examples, batch_size):
        """Return the answer to each source, and the probability of all its tokens together."""
        prompts = [self.source_ids(source, 0)[0] for source, *_ in examples]
        answers = self.write(model, prompts, batch_size)
        chances = self.probabilities(model, AnswerRows(self, prompts, answers, 0), batch_size)
        both = zip(examples, map(self.text_of, answers), chances, strict=True)
        return [Prediction(source, truth, guess, chance) for (source, truth), guess, chance in both]

    def write(self, model, prompts: list[list[int]], batch_size: int) -> list[list[int]]:
        """Return the ids of the answer to each prompt; prompts of similar length are read together.

        An answer ends with its end token, or without one at twice the longest training answer.
        """
        options = dict(temperature=0, n_beam=self.n_beam, eos_id=self.end, pad_id=self.pad, overflow="stop")
        options |= dict(forbidden_ids=self.specials - {self.end}, max_new_tokens=2 * self.n_answer)
        options |= {} if self.is_decoder else dict(decoder_start_id=self.decoder_begin)
        answers: list[list[int]] = [[]] * len(prompts)
        for chosen in alike([len(prompt) for prompt in prompts], batch_size):
            written = generate(model, [prompts[i] for i in chosen], **options)
            for i, ids in zip(chosen, written, strict=True):
                answers[i] = ids[len(prompts[i] if self.is_decoder else self.decoder_begin) :]
        return answers

    def text_of(self, answer: list[int]) -> str:
        """Return an answer's text, without its end."""
        return self.tokenizer.decode([token for token in answer if token not in self.specials]).strip()

    @torch.no_grad()
    def probabilities(self, model, rows: "AnswerRows", batch_size: int) -> list[float]:
        """Return for each row the probability that the model gives to the answer after its source."""
        found = np.zeros(len(rows))
        for chosen in alike(rows.lengths, batch_size):
            batch = {name: value.to(device_of(model)) for name, value in rows.batch(chosen).items()}
            logits, labels = self.answer_logits(model, batch)
            log_probs = logits.float().log_softmax(-1).gather(1, labels[:, None])[:, 0]  # (N,)
            row = (batch["labels"] != IGNORED).nonzero()[:, 0]  # (N,)
            sums = torch.zeros(len(chosen), device=row.device).index_add(0, row, log_probs)  # (B,)
            found[chosen] = sums.exp().cpu().numpy()
        return found.tolist()

    def score(self, predictions):
        """Return `exact_match`, white space aside, and what else fits the answers.

        Of labels: `macro_f1`, and `not_a_label`, the share of answers that are none of the labels. Their
        exact match is the accuracy: Raffel et al. 2020 count such answers as wrong too. Of sentences: `bleu`.
        """
        truth, guess = zip(*((p.truth, p.guess) for p in predictions), strict=True)
        figures = {"exact_match": exact_match(guess, truth)}
        if "labels" in self.known:
            labels = set(self.known["labels"])
            figures["macro_f1"] = macro_f1(truth, guess)
            figures["not_a_label"] = sum(text not in labels for text in guess) / len(guess)
        elif np.mean([len(words(text)) for text in truth]) >= SENTENCE:
            figures["bleu"] = corpus_bleu(guess, truth)
        return figures


class AnswerRows(Rows):
    """Sources and answers as ids; only the answers' tokens, their end among them, are labels."""

    def __init__(self, task: TextToText, sources: list[list[int]], answers: list[list[int]], n_cut: int):
        self.task, self.n_cut = task, n_cut
        if task.is_decoder:
            # One text: each label is the token that follows, and the source's are ignored.
            both = zip(sources, answers, strict=True)
            self.inputs = RaggedRows(([*source, *answer[:-1]] for source, answer in both), task.pad)
            given, self.encoder = [len(source) - 1 for source in sources], None
        else:
            self.inputs = RaggedRows(([*task.decoder_begin, *a[:-1]] for a in answers), task.pad)
            given, self.encoder = [len(task.decoder_begin) - 1] * len(answers), RaggedRows(sources, task.pad)
        labels = [[IGNORED] * n + answer for n, answer in zip(given, answers, strict=True)]
        self.labels = RaggedRows(labels, IGNORED)
        self.lengths = (self.encoder or self.inputs).lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen):
        """Return the chosen rows, padded to the longest of them.

        Returns:
            input_ids, attention_mask (B, T); of an encoder-decoder's encoder (B, S), and decoder_input_ids
            (B, T); labels (B, T), the token that the decoder must say, `IGNORED` before the answer and
            after; n_label (0-d).
        """
        chosen = np.asarray(chosen)
        labels, _ = self.labels.padded(chosen)
        inputs, real = self.inputs.padded(chosen)
        rows = dict(input_ids=inputs, attention_mask=real)
        if self.encoder is not None:
            # The decoder needs no mask: padding stands after the answer, where the causal mask hides it.
            sources, real = self.encoder.padded(chosen)
            rows = dict(input_ids=sources, attention_mask=real, decoder_input_ids=inputs)
        return tensors(rows | dict(labels=labels, n_label=max(1, (labels != IGNORED).sum())))


def fields_of(path) -> tuple[str, str]:
    """Return the names of a table's columns: prompt and response where its first line names one of them."""
    if kind(path) == ".jsonl":
        names = set(next(iter(read_jsonl(path)), (0, {}))[1])
    else:
        first = next((line for line in read_text(path).split("\n") if line.strip()), "")
        names = {cell.strip().strip('"').lower() for cell in first.replace(",", "\t").split("\t")}
    return FIELDS[1] if names & set(FIELDS[1]) else FIELDS[0]
