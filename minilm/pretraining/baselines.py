"""Baselines for the figures of a run: what is reached without a model, or without understanding.

A loss alone shows little: a model that has learnt only which positions hold which words already looks good.
So the closing tables compare the figures with those of trivial methods.
"""

import numpy as np

from .. import world
from ..training.objective import IGNORED, Objective, micro_batches, tensors
from .denoising import Denoising
from .masked import Masked, predict_masked
from .next_sentence import FOLLOWS
from .ngrams import MOST_SINGLE


def unigram_loss(objective: Objective, ids: np.ndarray, name: str, n_end: int = 0) -> float:
    """Return the loss, in nats per label, of knowing only how often each token occurs in the training ids.

    `name`: the key of the labels in the batch. `n_end`: how often [SEP], which is not in `ids`, is a label.
    """
    count = np.bincount(ids[:MOST_SINGLE], minlength=len(objective.token_bytes))
    count[objective.tokenizer.special_id("[SEP]")] += n_end * min(MOST_SINGLE, len(ids)) // len(ids)
    # As in `ngrams`: p = (c + d / V) / (n + d), d of V tokens seen; with c + 1, a small text would not count.
    count = count + (count > 0).mean()
    labels = objective.batch(0, "validation")[name].numpy()
    return float(-np.log(count / count.sum())[labels[labels != IGNORED]].mean())


def commonest_share(objective: Masked | Denoising) -> float:
    """Return the share of hidden or lost validation tokens that are the commonest training token."""
    batch = objective.batch(0, "validation")
    asked = batch["labels"][batch["survived"] == 0] if "survived" in batch else batch["masked_labels"]
    labels, commonest = asked.numpy(), np.bincount(objective.texts["train"].ids[:MOST_SINGLE]).argmax()
    return float((labels == commonest).sum() / (labels != IGNORED).sum())


def slot_accuracy(objective: Masked, model) -> float | None:
    """Return how often the guess for a hidden thing of a validation story is a thing of the same place.

    One thing per row is hidden. Positions and word frequencies alone find the right place one time in six.
    None if the vocabulary is so small that no thing is a single token.
    """
    texts, vocab = objective.texts["validation"], objective.tokenizer.vocab
    words = [vocab[i].decode(errors="replace").strip() for i in range(len(vocab))]
    place_of = np.array([world.place_of(word) or "" for word in words])  # (V,)
    rows = texts.rows(np.arange(len(texts)))
    is_thing = place_of[rows["input_ids"]] != ""  # (N, T)
    if not is_thing.any():
        return None
    rows = {name: value[is_thing.any(1)] for name, value in rows.items()}
    is_thing = is_thing[is_thing.any(1)]
    drawn = np.random.default_rng(objective.seed).random(is_thing.shape)
    hidden = (drawn * is_thing).argmax(1)[:, None]  # (N, 1), a random thing of each row
    truth = np.take_along_axis(rows["input_ids"], hidden, 1)
    np.put_along_axis(rows["input_ids"], hidden, objective.mask, 1)
    batch = tensors(rows | dict(masked_positions=hidden))
    parts = micro_batches(batch, -(-len(truth) // objective.batch_size))
    guess = np.concatenate([predict_masked(model, part).argmax(-1).numpy() for part in parts])  # (N, 1)
    return float((place_of[guess] == place_of[truth]).mean())


def shared_word_accuracy(objective: Masked) -> float:
    """Return the validation accuracy of the rule "B follows A if both contain the same rare token".

    A token is rare if at most a certain share of the texts contain it: the best share for training pairs.
    """
    sides = {split: pair_words(objective, split) for split in ("train", "validation")}
    rarity = np.concatenate(sides["train"][:2]).mean(0)  # (V,) share of the texts with this token

    def accuracy(split: str, limit: float) -> float:
        a, b, follows = sides[split]
        return float(((a & b & (rarity <= limit)).any(1) == follows).mean())

    limits = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    return accuracy("validation", max(limits, key=lambda limit: accuracy("train", limit)))


def pair_words(objective: Masked, split: str, n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for up to n pairs which tokens are in A (N, V) and in B (N, V), and whether B follows A (N,)."""
    rows = objective.rows(split, objective.generator(0, split), n)
    ids, segments = rows["input_ids"][:n], rows["token_type_ids"][:n].astype(int)  # (N, T); 0 in A, 1 in B
    row, column = np.nonzero(~objective.is_special[ids])
    present = np.zeros((2, len(ids), len(objective.token_bytes)), dtype=bool)
    present[segments[row, column], row, ids[row, column]] = True
    return *present, rows["next_sentence_labels"][:n] == FOLLOWS


def standing_share(objective: Denoising) -> float:
    """Return the share of surviving tokens that a copy of the input gets right: they kept their place."""
    batch = {name: value.numpy() for name, value in objective.batch(0, "validation").items()}
    first = len(objective.begin) - 1  # the column of the first label
    kept, labels = batch["survived"][:, first:] == 1, batch["labels"][:, first:]  # (B, T)
    width = min(kept.shape[1], batch["input_ids"].shape[1] - 1)  # of the input, after [CLS]
    stands = batch["input_ids"][:, 1 : 1 + width] == labels[:, :width]
    return float((stands & kept[:, :width]).sum() / batch["n_kept"])
