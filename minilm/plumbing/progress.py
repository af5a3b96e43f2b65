"""What a training run says while it runs (a bar, lines for a person, log.jsonl), and how it is stopped."""

import math
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from .devices import process_rank
from .errors import UserError
from .folders import TRAINER, append_log


class Progress:
    """Tells how training goes; the loss is read only when it is told.

    Reading a number makes a GPU wait for it. A loss that is not finite is noted on the GPU, by its step.
    Without a folder nothing is kept, and the bar, with its `label`, is all that is seen.
    """

    def __init__(self, folder: Path | None, settings, start: int, earlier_seconds: float, label: str | None):
        self.folder, self.settings = folder, settings
        self.began, self.earlier_seconds = time.perf_counter(), earlier_seconds
        self.n_token = 0
        self.first_bad: Tensor | None = None  # first step of a loss that is not finite
        # of several processes the first speaks; none: shown at a terminal only
        hidden, self.logs = (True, False) if process_rank() else (None, folder is not None)
        n_step = settings.steps
        self.bar = tqdm(total=n_step, initial=start, desc=label, disable=hidden, unit="step", ncols=100)

    def seconds(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def tokens_per_second(self) -> float:
        """Tokens a second since the start, or since going on; evaluations take their share of the time."""
        return self.n_token / max(1e-9, time.perf_counter() - self.began)

    def step(self, step: int, metrics: dict, norm: Tensor | float, n_token: int, lr: float) -> None:
        """Take note of one step, in tensors or floats; tell it where it is the turn of a line of the log."""
        self.n_token += n_token
        self.bar.update()
        good = torch.isfinite(torch.as_tensor(metrics["loss"])) & torch.isfinite(torch.as_tensor(norm))
        bad_step = torch.where(good, torch.inf, float(step))
        self.first_bad = bad_step if self.first_bad is None else torch.minimum(self.first_bad, bad_step)
        told = step % self.settings.log_every == 0 or step == self.settings.steps
        if told or good.device.type == "cpu":
            self.stop_if_not_finite()
        if told and self.logs:
            values, speed = {name: float(value) for name, value in metrics.items()}, self.tokens_per_second()
            self.bar.set_postfix(loss=f"{values['loss']:.3f}", tokens_s=f"{speed:,.0f}", refresh=False)
            line = dict(lr=lr, gradient_norm=float(norm), tokens_per_second=round(speed))
            append_log(self.folder, dict(step=step, split="train") | values | line)

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Tell the metrics on the validation part."""
        if self.logs:
            append_log(self.folder, dict(step=step, split="validation") | metrics)
        self.say(step, metrics)
        if not math.isfinite(metrics["loss"]):
            raise self.failed(
                f"the loss on the validation part is not finite after step {step}", self.advice()
            )

    def say(self, step: int, metrics: dict[str, float]) -> None:
        """Print the metrics of a step for a person, above the bar."""
        told = "  ".join(f"{name} {float(value):.3f}" for name, value in metrics.items())
        self.bar.write(f"step {step:5d}  {told}", file=sys.stderr)

    def stop_if_not_finite(self) -> None:
        """Raise UserError where a loss or gradient so far was NaN or infinite."""
        if self.first_bad is not None and (step := float(self.first_bad)) != float("inf"):
            raise self.failed(f"the loss or its gradient is not finite at step {step:.0f}", self.advice())

    def advice(self) -> str:
        """Say what helps against numbers that grow beyond all bounds."""
        return f". Try a smaller --lr than {self.settings.lr:g}, or a longer --warmup"

    def failed(self, why: object, advice: str = "") -> UserError:
        """Return the error that ends the run, with what is left of it and the way out."""
        self.bar.close()
        if self.folder is None:
            return UserError(f"{why}; nothing was being saved{advice}")
        kept = "keeps the last checkpoint" if (self.folder / TRAINER).exists() else "has no checkpoint yet"
        return UserError(f"{why}; {self.folder} {kept}{advice}")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the checkpoint was saved; the message says how to go on."""


class Wish:
    """Whether somebody pressed Ctrl-C."""

    stop = False


@contextmanager
def ctrl_c_as_a_wish():
    """Turn the first Ctrl-C (or a cluster's SIGTERM) into `wish.stop`, so that no step is cut in half.

    The second one ends the program at once. Outside the main thread signals are left as they are.
    """
    wish = Wish()

    def handle(signum, frame):
        if wish.stop:
            raise KeyboardInterrupt
        wish.stop = True

    try:
        earlier = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        earlier = {}
    try:
        yield wish
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
