"""Regime 6: in-context learning. A model reads examples in its prompt; no weight moves.

    python prompt.py                            accuracy against the number of examples, with its controls
    python prompt.py --prompt "Yesterday, Ana"  a model goes on with a text
    python prompt.py --prompt -                 a loop at the terminal
    python prompt.py --model runs/causal --data train.tsv --test test.tsv    your own labelled texts

Without --data the questions are those of the embedded world, and the model is a small GPT that has read
few-shot documents (runs/in-context, trained first where it is not there: about a minute and a half).
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from minilm.checkpoint import load
from minilm.in_context.prompt_files import FileQuestions
from minilm.in_context.prompts import SCORES, checksum
from minilm.in_context.questions import PROBE_SHOTS, curve
from minilm.in_context.run import FewShot
from minilm.in_context.study import Study, figures, file_study, world_study
from minilm.in_context.terminal import Writer, loop
from minilm.model.sampling import SamplingRule
from minilm.plumbing.devices import autocast, choose_device
from minilm.plumbing.errors import UserError
from minilm.plumbing.folders import LOG, RESULTS, SETTINGS, choose_folder, read_log, write_json
from minilm.plumbing.settings import CommonSettings, parse
from minilm.plumbing.terminal import exit_code, table
from minilm.pretraining.run import newest_or_train

SHOTS = (0, 1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class PromptSettings(CommonSettings):
    """What the model reads, and what it is asked."""

    model: str | None = None  # run folder; none: the newest runs/in-context, with --prompt runs/causal
    data: str | None = None  # labelled examples: .tsv, .csv or .jsonl with text, label; none: the world's
    test: str | None = None  # labelled texts to be asked; none: the last fifth of --data
    shots: tuple[int, ...] | None = None  # numbers of examples; none: 0,1,2,4,8, as many as fit
    n_draw: int = 5  # draws of the examples, for the confidence intervals
    n_test: int = 200  # questions of one draw; of --test at most so many are asked
    score: Literal[SCORES] = "sum"  # of a label: log-likelihood, per token, or calibrated
    template: str = "{text} : {label}"  # one example of --data
    separator: str = "\\n"  # between examples; \n is a line's end
    label_words: tuple[str, ...] = ()  # what labels are called in the prompt: 0=bad 1=good; none: as they are
    prompt: str | None = None  # a text to go on with, or - to type at the terminal
    max_new_tokens: int = 50  # with --prompt: most tokens to write
    temperature: float | None = None  # 0: always the likeliest token; none: 0.8, with --n-beam 1
    top_k: int | None = None  # draw from the k likeliest tokens
    top_p: float | None = None  # draw from the likeliest tokens that have this probability together
    n_beam: int = 1  # above 1: beam search

    def __post_init__(self):
        super().__post_init__()
        self.check_least(dict(n_draw=1, n_test=1, n_beam=1, max_new_tokens=1))
        if self.shots is not None and min(self.shots) < 0:
            raise UserError(f"--shots {min(self.shots)}: must be 0 or more")
        if self.prompt is not None and not self.prompt.strip():
            raise UserError("--prompt is empty: give the beginning of a text, or - to type at the terminal")
        SamplingRule(temperature=self.temperature or 0.0, top_k=self.top_k, top_p=self.top_p)  # or UserError
        if self.test and not self.data:
            raise UserError(f"--test {self.test} needs --data: the file with the examples")


def main() -> int:
    """Write a text for --prompt, or print the accuracy against the number of examples."""
    began = time.perf_counter()
    given, _ = parse(PromptSettings, description=__doc__)
    settings = PromptSettings(**given)
    device = choose_device(settings.device)
    study = read_study(settings)
    name, kind = (
        ("in-context", FewShot) if settings.prompt is None and not settings.data else ("causal", None)
    )
    folder = Path(settings.model or newest_or_train(name, settings.seed, settings.device, kind))
    model, tokenizer = load(folder, str(device))
    if tokenizer is None:
        raise UserError(f"{folder}: no tokenizer in it, and a prompt is text")
    if settings.compile and model.decoder is not None:
        model.decoder.compile()
    with autocast(settings.precision, device):
        if settings.prompt is None:
            report(settings, study, folder, model, tokenizer, began)
        else:
            write_text(settings, model, tokenizer)
    return 0


def read_study(settings: PromptSettings) -> Study:
    """Return what is asked: the user's files, or the questions of the embedded world."""
    if settings.data is None:
        return world_study(settings.seed, settings.n_draw, settings.n_test, settings.score)
    shape = (settings.label_words, settings.template, settings.separator)
    files = FileQuestions(settings.data, settings.test, settings.n_test, *shape)
    return file_study(files, settings.seed, settings.n_draw, settings.score)


def write_text(settings: PromptSettings, model, tokenizer) -> None:
    """Go on with --prompt, or with what is typed at the terminal."""
    rule = (settings.temperature, settings.top_k, settings.top_p, settings.n_beam)
    writer = Writer(model, tokenizer, settings.max_new_tokens, *rule)
    if settings.prompt == "-":
        loop(writer, settings.seed)
    else:
        writer.print(settings.prompt, settings.seed)


def report(settings: PromptSettings, study: Study, folder: Path, model, tokenizer, began: float) -> None:
    """Ask everything; print the tables, examples and checksums, and write the run folder."""
    before, shots = checksum(model), settings.shots
    if shots is None:
        shots = study.shots_that_fit(model, tokenizer, SHOTS) or SHOTS[:1]
    found = study.measure(model, tokenizer, shots)
    out = choose_folder("prompt", settings.out, settings.overwrite)
    write_json(out / SETTINGS, asdict(settings) | dict(model=str(folder)))
    if lines := curve(read_log(folder) if not settings.data and (folder / LOG).exists() else []):
        print("", f"Right after {PROBE_SHOTS} examples, while {folder} was trained:", "", *lines, sep="\n")
    print("\n" + table(*study.table(found)))
    if len(shots) < len(SHOTS) and settings.shots is None:
        print(f"More examples do not fit into the {model.config.max_positions} positions of {folder}.")
    print("", *study.examples(model, tokenizer, min(max(shots), 4)), "", sep="\n")
    after = checksum(model)
    if after != before:
        raise RuntimeError(f"the weights of {folder} moved: {before} before, {after} after")
    print(f"Weights of {folder} before: {before}, after: {after}. No weight changed.")
    seconds = time.perf_counter() - began
    write_json(out / RESULTS, figures(found) | dict(seconds=seconds, seed=settings.seed))
    print(f"Saved in {out} ({seconds:.0f} s, training included where there was any).")
    print('Next: python prompt.py --prompt "Yesterday, Ana"')


if __name__ == "__main__":
    sys.exit(exit_code(main))
