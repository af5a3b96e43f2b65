"""A tag for each word, from the vectors of its pieces: the names of persons and places, for instance.

A word is one or several tokens. Its first token carries its tag, the loss ignores the others (Devlin et al.
2019, section 5.3). Entities are counted as conlleval does, whole or not at all.

    words     Ana   weighed   a   pumpkin      .
    tokens    Ana   we  ighed a   pump  kin    .
    labels    B     O   -     O   B     -      O
"""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import world
from ..model.draft import pad
from ..plumbing.errors import UserError
from ..texts.tables import read_conll
from ..tokenizer.rows import framed, rows_of, word_ids
from ..training import metrics
from ..training.objective import IGNORED
from .heads import Head
from .tasks import Prediction, Rows, Task, check_known, device_of, in_parts


class Tagging(Task):
    """Words, and as many tags."""

    name, metric, kinds = "tagging", "entity_f1", ("encoder",)
    columns = "CoNLL columns: a word first, its tag last, a blank line between sentences"

    def __init__(self, tokenizer, config, context, known=None):
        super().__init__(tokenizer, config, context, known)
        self.tags = self.known["tags"]

    @classmethod
    def read(cls, path, skip_bad=False, truth=True):
        """Return (examples, n_skipped) of a CoNLL file; without truth a line is a word, or word and more."""
        if truth:
            return read_conll(path, skip_bad)
        sentences, n_skipped = read_conll(path, skip_bad, tagged=False)
        return [(words, None) for words, _ in sentences], n_skipped

    @classmethod
    def world(cls, n, seed, held_out):
        """Return the words of stories, and which are persons, things and places."""
        return world.tagging(n, seed, held_out)

    @classmethod
    def learn(cls, train):
        """Return the tags, in alphabetical order."""
        tags = sorted({tag for _, tags in train for tag in tags})
        if len(tags) < 2:
            raise UserError(f"all words have the tag {tags[0]!r}: there is nothing to tell apart")
        wrong = [tag for tag in tags if not metrics.is_entity_tag(tag)]
        if wrong:
            raise UserError(f"the tag {wrong[0]!r} is not O, B-TYPE or I-TYPE (BIO), as entities are marked")
        return dict(tags=tags)

    @classmethod
    def check(cls, known, examples, name):
        """Raise UserError for tags that no training word has."""
        check_known((tag for _, tags in examples for tag in tags), known["tags"], "tags", name)

    def head(self):
        """Return a linear layer from the vector of each position to a score for each tag."""
        return Head(self.config, len(self.tags), on="position")

    def rows(self, examples):
        """Return the words as rows, with a label at the first token of each."""
        return TaggedRows(self, examples)

    def loss(self, model, batch):
        """Return the mean cross-entropy of the words in nats; metrics `loss`, and `accuracy` a word."""
        logits, labels = model.output(batch), batch["labels"]  # (B, T, n_tag), (B, T)
        total = F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        right = (logits.argmax(-1) == labels).sum() / batch["n_label"]
        return total / batch["n_label"], dict(loss=total / batch["n_label"], accuracy=right)

    @torch.no_grad()
    def predict(self, model, examples, batch_size):
        """Return the likeliest tag of each word; the probability is that of the least certain word.

        Words beyond the context are O.
        """
        rows = TaggedRows(self, examples)
        guesses, chances = [None] * len(examples), [1.0] * len(examples)
        for part, batch in in_parts(rows, batch_size, device_of(model)):
            best, index = (side.cpu() for side in model.output(batch).float().softmax(-1).max(-1))  # (B, T)
            for row, i in enumerate(part):
                first = rows.first[i]
                tags = [self.tags[t] for t in index[row, first].tolist()]
                guesses[i] = tags + ["O"] * (len(examples[i][0]) - len(first))
                chances[i] = float(best[row, first].min()) if first else 0.0
        found = zip(examples, guesses, chances, strict=True)
        return [Prediction(" ".join(words), tags, guess, p) for (words, tags), guess, p in found]

    def score(self, predictions):
        """Return F1, precision and recall of whole entities."""
        precision, recall, f1 = metrics.entity_f1(
            [p.truth for p in predictions], [p.guess for p in predictions]
        )
        return dict(entity_f1=f1, precision=precision, recall=recall)

    @classmethod
    def trivial(cls, train, test):
        """Give each word the tag that it mostly has in training, a new word O."""
        counts: dict[str, Counter] = {}
        for words, tags in train:
            for word, tag in zip(words, tags, strict=True):
                counts.setdefault(word, Counter())[tag] += 1
        usual = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
        return "each word's usual tag", [[usual.get(word, "O") for word in words] for words, _ in test]

    def shown(self, prediction):
        """Return the words, and the entities found and missed: "person Ana, place market"."""
        words = prediction.text.split(" ")

        def entities(tags):
            return ", ".join(f"{kind} {' '.join(words[a:b])}" for a, b, kind in metrics.entities(tags)) or "-"

        lines = [prediction.text, f"    {entities(prediction.guess)}"]
        wrong = prediction.truth is not None and entities(prediction.truth) != entities(prediction.guess)
        return lines + ([f"    it is: {entities(prediction.truth)}"] if wrong else [])

    def written(self, value):
        """Return the tags with spaces between."""
        return " ".join(value)


class TaggedRows(Rows):
    """Words as tokens; `first[i]` are the places of the words' first tokens in row i."""

    def __init__(self, task: Tagging, examples: list[tuple]):
        self.n_cut, self.first, rows, self.labels = 0, [], [], []
        number = {tag: i for i, tag in enumerate(task.tags)}
        room = task.context - 2  # [CLS] and [SEP]
        unknown = [task.tokenizer.special_id("[UNK]")]  # for a word of which the tokenizer makes nothing
        for words, tags in examples:
            pieces = [ids or unknown for ids in word_ids(task.tokenizer, task.config, words)]
            flat = [token for piece in pieces for token in piece]
            starts = accumulate([1, *map(len, pieces[:-1])])  # 1: [CLS]
            self.n_cut += len(flat) > room
            rows.append(framed(task.tokenizer, task.config, flat[:room]))
            first = [start for start in starts if start <= room]
            label = [IGNORED] * len(rows[-1][0])
            for place, tag in zip(first, tags or ["O"] * len(words)):  # noqa: B905 - words that were cut
                label[place] = number.get(tag, IGNORED)
            self.first.append(first)
            self.labels.append(label)
        self.texts = rows_of(task.tokenizer, task.config, rows, self.n_cut)
        self.lengths = self.texts.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Return the rows of `RaggedRows.batch`, labels (B, T), and the denominator n_label."""
        labels, _ = pad([self.labels[i] for i in chosen], IGNORED, "right")
        n_label = (labels != IGNORED).sum().clamp(min=1).float()
        return self.texts.batch(chosen) | dict(labels=labels, n_label=n_label)
