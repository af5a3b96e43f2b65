"""Whole files of every kind that this project reads, tiny ones, for tests that damage them."""

import csv
import gzip
import io
import json
from dataclasses import asdict
from pathlib import Path

import published
import small
import torch
import tuned

from minilm.checkpoint import save
from minilm.finetuning.heads import put_head_on
from minilm.finetuning.settings import PAIRS, TASKS, FinetuningSettings
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.plumbing.folders import RESULTS, SETTINGS, TASK, TOKENIZER, TRAINER, write_json
from minilm.pretraining.run import PretrainingSettings, with_recipe
from minilm.reinforcement.settings import ReinforceSettings
from minilm.tokenizer.wordpiece import WordPiece
from minilm.training.loop import train
from minilm.world import preferences, translation_pairs


class Squares:
    """What a single layer learns, so that the state of its training is small; otherwise as any objective."""

    update = state = None

    def batch(self, step: int, split: str) -> dict[str, torch.Tensor]:
        return dict(input_ids=torch.eye(4, 3))

    def loss(self, model, batch: dict[str, torch.Tensor]) -> tuple:
        loss = model(batch["input_ids"]).square().mean()
        return loss, dict(loss=loss)


def layer() -> torch.nn.Module:
    """Return the model of `Squares`."""
    model = torch.nn.Linear(3, 2)
    model.config = ModelConfig(n_encoder_layer=1)  # any that can be written
    return model


def write_all(root: Path) -> Path:
    """Write the files, each kind in a folder of its own, and return where."""
    write_runs(root)
    write_tuned(root)
    write_published(root)
    write_data(root)
    return root


def write_runs(root: Path) -> None:
    """Write a run folder of ours, folders that hold the settings of others, and a WordPiece."""
    for name in ("run", "trainer", "start", "finetune", "reinforce", "wordpiece"):
        (root / name).mkdir()
        (root / name / TRAINER).touch()
    steps, tokenizer = small.settings(steps=3, log_every=1), small.tokenizer()
    train(small.model("masked"), small.objective("masked"), steps, root / "run", tokenizer)
    train(layer(), Squares(), steps, root / "trainer", patience=2)
    pretraining = asdict(with_recipe(PretrainingSettings(out="run", seed=1)))
    write_json(root / "run" / SETTINGS, pretraining | dict(d_model=8, n_head=2, dropout=0.0))
    write_json(root / "run" / RESULTS, dict(loss_after=1.5, parameters=10))
    write_json(root / "start" / SETTINGS, pretraining)
    write_json(root / "finetune" / SETTINGS, asdict(FinetuningSettings(data=("a.tsv",), seeds=(0, 1))))
    write_json(root / "reinforce" / SETTINGS, asdict(ReinforceSettings()))
    WordPiece(published.BERT_TOKENS).save(root / "wordpiece" / TOKENIZER)


def write_tuned(root: Path) -> None:
    """Write fine-tuned folders, of a model as small as can be."""
    config = tuned.config(n_encoder_layer=1, n_segments=0, pooler=False, next_sentence=False)
    for name in ("classification", "similarity", "tagging", "span"):
        examples = TASKS[name].world(20, 0, held_out=False)
        made = tuned.task(TASKS[name], examples, config, pairs=PAIRS.get(name))
        save(put_head_on(build(config), made.head()), small.tokenizer(), root / name)
        known = dict(task=name, context=made.context, known=made.known)
        write_json(root / name / TASK, known | dict(options=dict(pairs=made.pairs) if name in PAIRS else {}))


def write_published(root: Path) -> None:
    """Write folders in Hugging Face's layout, with vocab.txt and with a tokenizer.json of either kind."""
    for name in ("bert", "bert-json", "gpt2"):
        published.folder(root / name, name.partition("-")[0])
    (root / "bert-json/vocab.txt").unlink()
    ids = {token: i for i, token in enumerate(published.BERT_TOKENS)}
    added = [dict(id=ids[name], content=name, special=True) for name in ("[PAD]", "[UNK]", "[CLS]", "[MASK]")]
    model, normalizer = dict(type="WordPiece", vocab=ids), dict(lowercase=True, strip_accents=None)
    cutter = dict(type="BertPreTokenizer")
    whole = dict(model=model, added_tokens=added, normalizer=normalizer, pre_tokenizer=cutter)
    write_json(root / "bert-json" / TOKENIZER, whole)
    ids, merges = root / "gpt2/vocab.json", root / "gpt2/merges.txt"
    model = dict(type="BPE", vocab=json.loads(ids.read_text()), merges=merges.read_text().split("\n")[1:-1])
    write_json(root / "gpt2" / TOKENIZER, dict(model=model, pre_tokenizer=dict(type="ByteLevel")))
    ids.unlink()
    merges.unlink()


def write_data(root: Path) -> None:
    """Write a user's files: tables, columns, SQuAD, preferences and texts."""
    world = {name: task.world(20, 0, held_out=False) for name, task in TASKS.items()}
    labelled, texts = tuned.labelled(24), small.documents(24)
    text = "\n\n".join(texts)
    files = {
        "labels.tsv": "".join(f"{text}\t{label}\n" for text, label in labelled),
        "labels.csv": table(("text", "label"), labelled),
        "labels.jsonl": lines(("text", "label"), labelled),
        "pairs.jsonl": lines(TASKS["pair"].fields, world["pair"]),
        "scores.csv": table(TASKS["similarity"].fields, world["similarity"]),
        "words.conll": "\n".join("".join(map("{} {}\n".format, *example)) for example in world["tagging"]),
        "squad1.json": json.dumps(squad(world["span"])),
        "squad2.json": json.dumps(squad(world["span"], dict(answers=[], is_impossible=True))),
        "sources.tsv": "".join(map("{0[0]}\t{0[1]}\n".format, translation_pairs(20, 0))),
        "preferences.jsonl": lines(("prompt", "chosen", "rejected"), preferences(20, 0)),
        "texts.txt": text,
        "texts.jsonl": lines(("text",), [(text,) for text in texts]),
        "texts.txt.gz": gzip.compress(text.encode(), mtime=0),
    }
    for name, content in files.items():
        (root / name).mkdir()
        (root / name / name).write_bytes(content.encode() if isinstance(content, str) else content)


def lines(fields, rows) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(dict(zip(fields, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def table(fields, rows) -> str:
    """Return rows as a .csv with a header."""
    file = io.StringIO()
    csv.writer(file).writerows([fields, *rows])
    return file.getvalue()


def squad(examples: list[tuple], *more: dict) -> dict:
    """Return examples of text, question and answers as SQuAD; `more`: what other questions say of it."""
    paragraphs = []
    for i, (text, question, answers) in enumerate(examples):
        given = [dict(text=answer, answer_start=start) for answer, start in answers]
        asked = [dict(id=f"q{i}", question=question, answers=given)]
        paragraphs.append(dict(context=text, qas=asked + [dict(question="Why?") | other for other in more]))
    return dict(version="2.0", data=[dict(title="a", paragraphs=paragraphs)])
