"""DistilBERT: a student with half the layers learns from a trained model, its teacher.

    loss = 5 * soft targets    pulls the student's probabilities of all V tokens towards the teacher's
         + 2 * masked tokens   BERT's own loss: predict the original token
         + 1 * cosine          turns the last hidden states towards those of the teacher

    input_ids     [CLS] _Ana _was _at _the _market . [SEP] _She _sold _a [MASK]  . [SEP]
    masked_labels     -    -    -   -    -       - -     -    -     -  - _melon  -     -
    the teacher predicts: _tomato 0.20, _banana 0.16, _lemon 0.14, ... _melon 0.09, _kite 0.00

A text shows only which token stood in a gap. The teacher also says how likely every other token was there.
That helps if there are few texts; many texts show as much by themselves.

Source: Sanh et al. 2019, "DistilBERT, a distilled version of BERT", sections 2 and 3. The weights 5, 2, 1 and
the temperature 2 are those of the authors' code; the paper gives neither.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.transformer import Transformer, build
from ..plumbing.errors import UserError
from ..texts.corpus import Corpus, draw
from ..tokenizer.base import Tokenizer
from ..training.objective import IGNORED, count_correct, summed_cross_entropy
from .masked import Masked, masked_states


class Distillation(Masked):
    """Masked tokens (without next sentence), and a frozen teacher's predictions of them.

    A teacher with segments reads what it was trained on: [CLS] A [SEP] B [SEP] with token_type_ids, where B
    follows A. The student reads the same tokens, but has no segments. Differs from the authors' code, which
    marks everything as segment A: a bert-tiny that gets 0.68 of the hidden tokens right then gets 0.61, and
    0.18 on the rows of RoBERTa, filled across documents. A teacher without segments reads RoBERTa's rows.

    The three weights belong to the three losses; 0 switches one off. Training uses `n_documents` texts of
    `corpus`, drawn by `seed` (None: all). UserError for a teacher with another number of tokens.
    """

    # Early stopping for every student, with its best weights kept: one without a teacher soon knows few texts
    # by heart, its validation loss rises, and its last weights would look worse than it can be.
    patience = 3

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, context: int, batch_size: int, seed: int = 0,
        *, teacher: Transformer, n_documents=None, mask_share=0.15, whole_word=False, temperature=2.0,
        soft_weight=5.0, masked_weight=2.0, cosine_weight=1.0,
    ):  # fmt: skip
        if (n_token := teacher.config.vocab_size) != tokenizer.vocab_size:
            raise UserError(f"--teacher: model with {n_token} tokens, tokenizer with {tokenizer.vocab_size}")
        if not temperature > 0:
            raise UserError(f"--temperature {temperature}: must be above 0 (DistilBERT: 2)")
        self.weights = dict(soft=soft_weight, masked=masked_weight, cosine=cosine_weight)
        if not (all(weight >= 0 for weight in self.weights.values()) and any(self.weights.values())):
            given = ", ".join(f"--{term}-weight {weight}" for term, weight in self.weights.items())
            raise UserError(f"{given}: must be 0 or more, and not all of them 0")
        pairs = teacher.config.n_segments > 0
        few = replace(corpus, train=draw(corpus.train, n_documents, seed))
        super().__init__(few, tokenizer, context, batch_size, seed, pairs, mask_share, whole_word)
        self.next_sentence = False  # `texts` may hold pairs, but there B always follows A
        self.teacher = teacher.requires_grad_(False).eval()
        self.temperature, self.all_texts, self.n_documents = temperature, corpus, n_documents

    def batch(self, step: int, split: str) -> dict[str, Tensor]:
        """Return the batch of `Masked` with another denominator, n_token (0-d): the number of real tokens."""
        batch = super().batch(step, split)
        return batch | dict(n_token=batch["attention_mask"].sum().float())

    def loss(self, model: Transformer, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the three losses, and each of them as a metric.

        Soft targets and masked tokens are means over the hidden tokens, in nats; the cosine term is a mean
        over all real tokens. The teacher runs only if one of its two terms has a weight. Differs from the
        authors' code, which takes soft targets at every token: the teacher has learnt to predict hidden ones.
        """
        hidden, at_masked = masked_states(model, batch)  # (B, T, D), (B, P, D)
        logits = model.vocabulary_logits(at_masked)  # (B, P, V)
        total = summed_cross_entropy(logits, batch["masked_labels"])
        losses = dict(masked=total / batch["n_masked"])  # as in `masked.py`
        if self.weights["soft"] or self.weights["cosine"]:
            teacher_hidden, teacher_logits = self.ask_teacher(batch)  # (B, T, D), (B, P, V)
            counted = batch["masked_labels"] != IGNORED  # (B, P)
            soft = soft_target_loss(logits, teacher_logits, counted, self.temperature)
            cosine = cosine_loss(hidden, teacher_hidden, batch["attention_mask"])
            losses |= dict(soft=soft / batch["n_masked"], cosine=cosine / batch["n_token"])
        loss = sum(self.weights[term] * value for term, value in losses.items())  # 5 soft + 2 masked + cosine
        return loss, {f"{term}_loss": value for term, value in losses.items()} | {
            "loss": loss,
            "masked_accuracy": count_correct(logits, batch["masked_labels"]) / batch["n_masked"],
            "bits_per_byte": total / math.log(2) / batch["n_byte"],
        }

    @torch.no_grad()
    def ask_teacher(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the teacher's last hidden states (B, T, D) and its logits at the hidden tokens (B, P, V)."""
        hidden, at_masked = masked_states(self.teacher, batch)
        return hidden, self.teacher.vocabulary_logits(at_masked)


def soft_target_loss(logits: Tensor, teacher_logits: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher's probabilities || student's), summed over the counted places, in nats.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2. Both distributions
    are softmax(logits / T); a temperature T above 1 shows how the teacher ranks the unlikely tokens. It also
    makes the gradient about T^2 times smaller. The factor T^2 makes up for that, so that the weight of this
    term means the same at every temperature. Differs from the paper: KL, which is the cross-entropy minus the
    teacher's own entropy. The gradient is the same, and a loss of 0 means that student and teacher agree.
    The logits are (B, P, V); `counted` (B, P) is boolean.
    """
    # In float32: with the two to three digits of bf16 the divergence can fall below 0.
    teacher = (teacher_logits.float() / temperature).log_softmax(-1)  # (B, P, V), log p
    student = (logits.float() / temperature).log_softmax(-1)  # log q
    divergence = (teacher.exp() * (teacher - student)).sum(-1)  # (B, P), sum over V of p (log p - log q)
    return temperature**2 * (divergence * counted).sum()


def cosine_loss(hidden: Tensor, teacher_hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Return 1 - cosine of the two hidden states (B, T, D), summed over the real tokens of a mask (B, T)."""
    return ((1 - F.cosine_similarity(hidden, teacher_hidden, dim=-1)) * attention_mask).sum()  # of (B, T)


def initial_student(teacher: Transformer, n_layer: int | None = None) -> Transformer:
    """Return a student with copies of every second layer of the teacher, or of n_layer layers, evenly spread.

    The embeddings, the final norm and the vocabulary head are copied too; segments, pooler and next-sentence
    head are left out. UserError if the teacher is no encoder, or has fewer than n_layer layers.
    """
    if (kind := teacher.config.kind) != "encoder":
        raise UserError(f"--teacher: its kind is {kind}, expected an encoder as --objective masked trains it")
    n_teacher = teacher.config.n_encoder_layer
    n_layer = max(1, n_teacher // 2) if n_layer is None else n_layer
    if n_layer > n_teacher:
        raise UserError(f"--n-encoder-layer {n_layer}: the teacher has {n_teacher} layers; give no more")
    left_out = dict(n_segments=0, pooler=False, next_sentence=False)
    student = build(replace(teacher.config, n_encoder_layer=n_layer, **left_out))
    weights = teacher.state_dict()
    student.load_state_dict({name: weights[name] for name in student.state_dict()})  # blocks: 0, 1, 2, ...
    for i, block in enumerate(student.encoder.blocks):  # of 12: 0 2 4 6 8 10; the authors: 0 2 4 7 9 11
        block.load_state_dict(teacher.encoder.blocks[i * n_teacher // n_layer].state_dict())
    return student
