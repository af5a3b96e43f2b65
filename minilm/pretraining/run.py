"""A whole pre-training run: text, tokenizer, model, training, closing table, run folder.

`train.py` is this with flags. The later regimes call `newest_or_train` for a model to start from.
"""

from dataclasses import asdict
from pathlib import Path

from ..checkpoint import check_trainer
from ..continued import run as continued
from ..plumbing.devices import choose_device, process_count, process_group, process_rank
from ..plumbing.errors import UserError
from ..plumbing.folders import RESULTS, SETTINGS, choose_folder, find_run, write_json
from ..plumbing.settings import show
from ..plumbing.terminal import table
from ..training.loop import train
from .recipes import with_recipe
from .registry import (
    OBJECTIVES,
    check_fit,
    closing,
    copied_student,
    fresh_model,
    load_texts,
    make_objective,
    make_tokenizer,
    run_name,
)
from .settings import PretrainingSettings


def newest_or_train(name: str, seed: int = 0, device: str = "auto") -> Path:
    """Return the newest finished run of a name under runs/; where there is none, train the default one.

    The name is that of an objective, or "in-context" for the GPT that has read few-shot documents. The
    tokenizer, the weights and the text of that default are drawn from `seed`.

    Raises:
        UserError: where it is not there and several processes ask, of which the first alone knows its folder.
    """
    found = find_run(name)
    if found is None and process_count() > 1:
        what_to_do = f"python train.py --objective {name} makes one"
        raise UserError(f"no finished runs/{name} to start from: {what_to_do}")
    if found is None:
        print(f"No finished runs/{name} to start from yet, so the default one is trained first.")
        what = (
            dict(objective="causal", model="gpt-alibi-tiny") if name == "in-context" else dict(objective=name)
        )
        found = pretrain(with_recipe(PretrainingSettings(**what, seed=seed, device=device)))
    return found


def pretrain(settings: PretrainingSettings, overrides: dict | None = None) -> Path:
    """Read the text, make or load the model, train it, and return the run folder that it is kept in.

    `overrides`: fields of the model that differ from its preset.
    """
    overrides = overrides or {}
    device = choose_device(settings.device)
    corpus = load_texts(settings)
    print(corpus.summary(), *corpus.notes, sep="\n")
    start = continued.Start(settings, corpus) if settings.init else None
    if start:
        model, tokenizer = start.model, start.tokenizer
    elif settings.objective == "distillation":
        model, tokenizer = copied_student(settings, overrides)
    else:
        tokenizer = make_tokenizer(settings, corpus)
        model = fresh_model(settings, overrides, tokenizer)
    check_fit(settings, model.config)
    model.to(device)
    objective = make_objective(settings, start.mixed if start else corpus, tokenizer)
    for note in objective.notes:
        print(note)
    folder = run_folder(settings, run_name(settings))
    if settings.resume:
        check_trainer(folder, model)
    if process_rank() == 0:
        write_json(folder / SETTINGS, asdict(settings) | overrides)
    show(settings, overrides, script="train.py")
    with process_group(device):
        outcome = train(model, objective, settings, folder, tokenizer)
        if process_rank() == 0:
            close(settings, model, objective, outcome, folder, start)
    return folder


def run_folder(settings: PretrainingSettings, name: str) -> Path:
    """Return the folder of this run. Of several processes the first makes it; the others write nothing."""
    if settings.resume or process_rank():
        return Path(settings.out or "runs")
    return choose_folder(name, settings.out, settings.overwrite)


def close(settings: PretrainingSettings, model, objective, outcome: dict, folder: Path, start) -> None:
    """Print the closing tables and the examples, and write results.json: the run is finished."""
    before, after, entry = outcome["before"], outcome["after"], OBJECTIVES[settings.objective]
    rows, results, examples = closing(settings, objective, model, before, after)
    print("\n" + table(rows, entry.header), *["", *examples, ""], sep="\n")
    if start:
        rows, more = start.closing(model)
        print(table(rows, continued.HEADER) + "\n")
        results |= more
    results |= dict(loss_before=before["loss"], loss_after=after["loss"])
    results |= dict(bits_per_byte=after["bits_per_byte"], tokens_per_second=outcome["tokens_per_second"])
    results |= dict(parameters=model.n_parameters(), seconds=outcome["seconds"], seed=settings.seed)
    write_json(folder / RESULTS, {k: v for k, v in results.items() if v is not None})
    print(f"Saved in {folder} ({model.n_parameters():,} weights, {outcome['seconds']:.0f} s).")
    print(f"Next: {'python prompt.py' if run_name(settings) == 'in-context' else entry.next_command}")
