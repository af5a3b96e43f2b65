"""Tagging: a tag for each word, for instance whether it is in the name of a person or of a place.

A word is one or more tokens. Its tag is predicted at its first token; the loss ignores the others (Devlin et
al. 2019, section 5.3). Only whole entities count as right, as in conlleval; of other tags each word counts.

    words                Ana  weighed     a  pumpkin   .
    input_ids [CLS]     _Ana _we ighed  _a   _pump kin . [SEP]
    labels        - B-person   O     -   O B-thing   - O     -
"""

from itertools import chain, pairwise
from typing import ClassVar

from .. import world
from ..tokenizer.rows import RaggedRows, word_rows
from ..training import metrics
from ..training.objective import IGNORED, count_correct, summed_cross_entropy
from .tasks import HeadTask, LabelledRows, Prediction, commonest


class Tagging(HeadTask):
    """The words of a sentence, and a tag for each."""

    name, metric, baseline, closed = "tagging", "entity_f1", "usual tags", True
    fields, files, kinds, on = ("words", "tags"), "conll", ("encoder",), "position"
    learnt: ClassVar = dict(tags=tuple[str, ...])
    recipe: ClassVar = dict(n_examples=200, steps=200, batch_size=32)
    world = staticmethod(world.tagging)  # which words are persons, things and places

    @classmethod
    def truths(cls, examples):
        """Return the tags of all words; UserError if some mark entities and another does not."""
        tags = [tag for _, tags in examples for tag in tags]
        if any("-" in tag[1:] and metrics.is_entity_tag(tag) for tag in tags):
            metrics.entities(tags)  # for its UserError alone
        return tags

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.marks_entities = all(map(metrics.is_entity_tag, self.labels))
        self.metric = "entity_f1" if self.marks_entities else "accuracy"

    def rows(self, examples):
        """Return the sentences as rows, with a label at the first token of each word; tags None: label 0."""
        number, words = {tag: i for i, tag in enumerate(self.labels)}, [words for words, _ in examples]
        rows, columns = word_rows(self.tokenizer, self.config, words, self.context)
        labels = []
        for n_token, places, (_, tags) in zip(rows.lengths, columns, examples, strict=True):
            # A word has one label: with a loss on all its tokens, long words would count more.
            known = [0] * len(places) if tags is None else [number.get(tag, IGNORED) for tag in tags]
            label_at = dict(zip(places, known, strict=False))  # a word beyond the context has no place
            labels.append([label_at.get(place, IGNORED) for place in range(n_token)])
        return LabelledRows(rows, RaggedRows(labels, IGNORED))

    def loss(self, model, batch):
        """Return the mean cross-entropy of the words in nats; metrics: `loss`, `accuracy` (of words)."""
        logits, labels = model.output(batch).float(), batch["labels"]  # (B, T, n_tag), (B, T)
        loss = summed_cross_entropy(logits, labels) / batch["n_label"]
        return loss, dict(loss=loss, accuracy=count_correct(logits, labels) / batch["n_label"])

    def predict(self, model, examples, batch_size):
        """Return the likeliest tag of each word (O or _ beyond the context), and their lowest probability."""
        rows, found = self.rows([(words, None) for words, _ in examples]), []
        outputs = zip(rows.columns["labels"], self.outputs(model, rows, batch_size), strict=True)
        for (words, truth), (labels, scores) in zip(examples, outputs, strict=True):
            at = [place for place, label in enumerate(labels) if label != IGNORED]  # first tokens of words
            chances, best = scores[at].softmax(-1).max(-1)  # (n_word, n_tag) -> (n_word,)
            beyond = ["O" if self.marks_entities else "_"] * (len(words) - len(at))
            guess = [self.labels[i] for i in best.tolist()] + beyond
            text = " ".join("_".join(word.split()) for word in words)  # a word with a space stays one
            found.append(Prediction(text, truth, guess, chances.min().item()))
        return found

    def score(self, truth, guess):
        """Return F1, precision and recall of whole entities, or accuracy if the tags mark none."""
        if not self.marks_entities:
            return dict(accuracy=metrics.accuracy([*chain(*truth)], [*chain(*guess)]))
        precision, recall, f1 = metrics.entity_f1(truth, guess)
        return dict(entity_f1=f1, precision=precision, recall=recall)

    @classmethod
    def trivial(cls, train, test):
        """Return each word's usual training tag; for a new word, the tag usual after the word before it."""
        usual = commonest(pair for words, tags in train for pair in zip(words, tags, strict=True))
        after = commonest(pair for words, tags in train for pair in zip(words, tags[1:], strict=False))
        other = commonest((None, tag) for tag in cls.truths(train))[None]
        guess = lambda last, word: usual.get(word, after.get(last, other))
        return [[guess(*two) for two in pairwise([None, *words])] for words, _ in test]

    def written(self, value, text=None):
        """Return the tags, separated by spaces; with the text, the entities: "person Ana, place market"."""
        if text is None:
            return " ".join(value)
        words = text.split(" ")
        if not self.marks_entities:
            return " ".join(map("/".join, zip(words, value, strict=True)))
        entities = (f"{kind} {' '.join(words[a:b])}".strip() for a, b, kind in metrics.entities(value))
        return ", ".join(entities) or "-"
