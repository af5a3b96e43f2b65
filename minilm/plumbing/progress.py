"""What a training run says while it runs: a bar and lines for a person, log.jsonl for programs."""

import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from .devices import process_rank
from .errors import UserError
from .folders import TRAINER, append_log


class Report:
    """What a person and `log.jsonl` are told while a model trains; the loss is read only when it is told.

    Reading a number makes a GPU wait for it. A loss that is not finite is noted on the GPU, by its step.
    """

    def __init__(self, folder: Path, settings, start: int, earlier_seconds: float):
        self.folder, self.settings = folder, settings
        self.speaks = process_rank() == 0
        self.began, self.earlier_seconds = time.perf_counter(), earlier_seconds
        self.n_token = 0
        self.first_bad: Tensor | None = None  # first step of a loss that is not finite
        hidden = None if self.speaks else True  # none: shown at a terminal only
        self.bar = tqdm(total=settings.steps, initial=start, disable=hidden, unit="step", ncols=100)

    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def speed(self) -> float:
        """Tokens a second since the start, or since going on; evaluations take their share of the time."""
        return self.n_token / max(1e-9, time.perf_counter() - self.began)

    def figures(self) -> dict[str, float]:
        """Return `seconds` and `tokens_per_second`, for the closing table."""
        return dict(seconds=self.seconds(), tokens_per_second=self.speed())

    def step(
        self, step: int, metrics: dict[str, Tensor], norm: Tensor, n_token: int, learning_rate: float
    ) -> None:
        """Take note of one step; tell it where it is the turn of a line of the log."""
        self.n_token += n_token
        self.bar.update()
        good = torch.isfinite(metrics["loss"]) & torch.isfinite(norm)
        bad_step = torch.where(good, torch.inf, float(step))
        self.first_bad = bad_step if self.first_bad is None else torch.minimum(self.first_bad, bad_step)
        told = step % self.settings.log_every == 0 or step == self.settings.steps
        if told or norm.device.type == "cpu":
            self.stop_if_not_finite()
        if told and self.speaks:
            values = {name: float(value) for name, value in metrics.items()}
            self.bar.set_postfix(loss=f"{values['loss']:.3f}", tokens_s=f"{self.speed():,.0f}", refresh=False)
            line = dict(lr=learning_rate, gradient_norm=float(norm), tokens_per_second=round(self.speed()))
            append_log(self.folder, dict(step=step, split="train") | values | line)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Tell the metrics on the validation part."""
        append_log(self.folder, dict(step=step, split="validation") | metrics)
        told = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        self.bar.write(f"step {step:5d}  {told}", file=sys.stderr)
        if not math.isfinite(metrics["loss"]):
            self.stop(f"the loss on the validation part is not finite after step {step}")

    def stop_if_not_finite(self) -> None:
        """Raise UserError where a loss or gradient so far was NaN or infinite."""
        if self.first_bad is not None and (step := float(self.first_bad)) != float("inf"):
            self.stop(f"the loss or its gradient is not finite at step {step:.0f}")

    def stop(self, why: str) -> None:
        """Raise UserError, with what is left of the run and the way out."""
        self.close()
        kept = "keeps the last checkpoint" if (self.folder / TRAINER).exists() else "has no checkpoint yet"
        raise UserError(
            f"{why}; {self.folder} {kept}. Try a smaller --lr than {self.settings.lr:g}, or a longer --warmup"
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()
