"""The flags of pre-training: what is learnt, by which model, from which text."""

from dataclasses import dataclass
from typing import Literal

from ..plumbing.errors import UserError
from ..training.loop import TrainingSettings
from .registry import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(TrainingSettings):
    """What is learnt, by what, from what."""

    objective: Literal[tuple(OBJECTIVES)] = "masked"  # what the model has to predict
    model: str | None = None  # preset to start from, with random weights; none: the tiny one of the objective
    data: tuple[str, ...] | None = None  # world, world:reports, world:few-shot, python-docs, or your files
    n_documents: int | None = None  # training documents or pairs to use; none: all (of the world 20,000)
    errors: Literal["strict", "replace"] = "strict"  # replace: read on over bytes that are not UTF-8
    skip_bad: bool = False  # translation: leave out and count pairs with an empty side
    tokenizer: str | None = None  # a tokenizer.json; none: a BPE is trained on the data
    vocab_size: int | None = None  # tokens of the BPE that is trained
    context: int | None = None  # tokens a row
    mask_share: float = 0.15  # masked: share of the tokens that are hidden
    whole_word: bool = False  # masked: hide all tokens of a word or none
    next_sentence: bool = True  # masked: also ask whether text B follows text A; no: RoBERTa's rows
    noise: str = "infilling,permutation"  # denoising: masking, deletion, infilling, permutation, rotation
    label_smoothing: float = 0.1  # translation: share of the target that goes to all other tokens
    teacher: str | None = None  # distillation: the teacher's folder, or hf:NAME; none: the newest runs/masked
    temperature: float = 2.0  # distillation: divides the logits of both before the softmax
    soft_weight: float = 5.0  # distillation: weight of the teacher's probabilities
    masked_weight: float = 2.0  # distillation: weight of the hidden tokens themselves
    cosine_weight: float = 1.0  # distillation: weight of the angle between both hidden states
    init: str | None = None  # run or Hugging Face folder, or hf:NAME, to start from: continued training
    extend_vocabulary: int = 0  # with --init: so many new tokens, learnt from the domain's text
    new_rows: Literal["mean", "zeros", "random"] = "mean"  # what the rows of new tokens start as
    replay: float = 0.0  # with --init: share of general text mixed in, against forgetting

    def __post_init__(self):
        super().__post_init__()
        if self.context is not None and self.context < 8:
            raise UserError(f"--context {self.context}: must be 8 or more")
        if not 0 < self.mask_share <= 1:
            raise UserError(f"--mask-share {self.mask_share}: must be above 0 and at most 1")
        if not 0 <= self.replay < 1 or self.extend_vocabulary < 0:
            raise UserError("--replay must lie in [0, 1) and --extend-vocabulary must not be below 0")
        if (self.replay or self.extend_vocabulary) and not (self.init or self.resume):
            raise UserError("--replay and --extend-vocabulary need a model to go on with: add --init FOLDER")
