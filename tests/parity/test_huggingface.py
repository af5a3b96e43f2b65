"""Grades minilm/huggingface against transformers: folders that it writes, and folders that we export.

Logits, every hidden state and the pooled heads agree to 1e-4 in float32 and to 1e-5 in float64, with padding.
No download: the other models are built from their configuration classes, at small unequal sizes.
"""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import minilm
from minilm.huggingface.configs import LAYOUTS
from minilm.model.config import ModelConfig
from minilm.model.transformer import build
from minilm.tokenizer.bpe import BPE, SPECIAL_TOKENS
from minilm.tokenizer.wordpiece import WordPiece

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")
B, T, S, V = 3, 6, 8, 53
RIGHT = torch.tensor([[1] * 5 + [0] * 3, [1] * 8, [1] * 7 + [0]])
MASKS = {"full": None, "right": RIGHT, "left": RIGHT.flip(1)}
PRECISION = [(torch.float32, 1e-4), (torch.float64, 1e-5)]
# vocabulary, width, heads, inner width, blocks, blocks of the decoder, positions
SHAPES = {"a": (53, 24, 3, 40, 2, 1, 11), "b": (61, 20, 2, 12, 1, 3, 17), "c": (97, 32, 8, 129, 3, 2, 8)}


def sizes(kind: str, shape: tuple) -> dict:
    """Return the sizes under the names that this model type has for them."""
    V, D, H, F, L, M, P = shape
    if kind == "distilbert":
        named = dict(vocab_size=V, dim=D, n_heads=H, n_layers=L, hidden_dim=F)
        return named | dict(max_position_embeddings=P, pad_token_id=0)
    if kind == "gpt2":
        named = dict(vocab_size=V, n_embd=D, n_head=H, n_layer=L, n_inner=F, n_positions=P)
        return named | dict(bos_token_id=0, eos_token_id=0)
    if kind in ("bart", "blenderbot"):
        both = dict(attention_heads=H, ffn_dim=F)
        sides = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in both.items()}
        sides |= dict(encoder_layers=L, decoder_layers=M)
        return sides | dict(vocab_size=V, d_model=D, max_position_embeddings=P)
    named = dict(vocab_size=V, hidden_size=D, num_attention_heads=H, num_hidden_layers=L, intermediate_size=F)
    named["max_position_embeddings"] = P + 2 if kind == "roberta" else P  # its two first stand for padding
    if kind in LLAMAS:
        named["num_key_value_heads"] = H if H < 8 else 2
    return named | dict(mistral=dict(sliding_window=None), qwen3=dict(head_dim=6)).get(kind, {})


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Give each weight its own value, also those that begin as 0 or 1."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    for name, buffer in model.named_buffers():
        if "final_logits_bias" in name:
            buffer.normal_()
    return model.eval()


def their_model(kind: str, shape: tuple, **changes):
    """Return a model of transformers with random weights, with all heads of pre-training."""
    config = transformers.AutoConfig.for_model(kind, **sizes(kind, shape) | changes)
    return randomise(getattr(transformers, LAYOUTS[kind].architecture)(config))


def exported(mine, path: Path, tokenizer=None) -> Path:
    """Save our model, export the run folder, and return the new folder."""
    minilm.save(mine, tokenizer, path / "ours")
    minilm.huggingface.export(path / "ours", path / "exported")
    return path / "exported"


def differences(mine, theirs, mask: torch.Tensor | None) -> dict[str, float]:
    """Return the greatest difference of each output of the two, at real tokens: nobody reads the others."""
    kind, V = theirs.config.model_type, mine.config.vocab_size
    ids = torch.randint(3, V, (B, S))  # the first ids are special tokens of theirs
    if kind == "roberta" and mask is not None:
        ids = torch.where(mask.bool(), ids, theirs.config.pad_token_id)  # it counts positions by these
    given = dict(input_ids=ids, attention_mask=mask)
    real = torch.ones(B, S, dtype=torch.bool) if mask is None else mask.bool()
    pairs = {}
    with torch.no_grad():
        if mine.config.n_segments:
            given["token_type_ids"] = torch.randint(2, (B, S))
        asked = dict(given, output_hidden_states=True)
        if mine.encoder is None and mask is not None:  # theirs counts padding unless told otherwise
            asked["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if mine.decoder is not None and mine.encoder is not None:
            more = dict(decoder_input_ids=torch.randint(3, V, (B, T)))
            more["decoder_attention_mask"] = None if mask is None else mask[:, 2:]
            given, asked = given | more, asked | more
            expected = theirs(**asked)
            encoded = mine.encode(ids, mask)
            assert len(encoded) == len(expected.encoder_hidden_states)
            for i, (a, b) in enumerate(zip(encoded, expected.encoder_hidden_states, strict=True)):
                pairs[f"encoder {i}"] = (a[real], b[real])
            states, real = expected.decoder_hidden_states, real[:, 2:]
        else:
            expected = theirs(**asked)
            states = expected.hidden_states
        own = mine.hidden_states(**given)
        assert len(own) == len(states), "n_layer + 1 hidden states"
        pairs |= {f"layer {i}": (a[real], b[real]) for i, (a, b) in enumerate(zip(own, states, strict=True))}
        logits = expected.logits if hasattr(expected, "logits") else expected.prediction_logits
        pairs["logits"] = (mine(**given)[real], logits[real])
        if mine.next_sentence is not None:
            pairs["next sentence"] = (mine.next_sentence_logits(own[-1]), expected.seq_relationship_logits)
            pairs["pooled"] = (mine.pooled(own[-1]), theirs.bert(**given).pooler_output)
    for name, (a, b) in pairs.items():
        assert a.shape == b.shape, name
    return {name: (a - b).abs().max().item() for name, (a, b) in pairs.items()}


def assert_equal(mine, theirs, masks: list[str]) -> None:
    for dtype, tolerance in PRECISION:
        for mask in masks:
            found = differences(mine.to(dtype), theirs.to(dtype), MASKS[mask])
            assert max(found.values()) < tolerance, f"{dtype}, {mask}: {found}"
    mine.float(), theirs.float()


def masks_of(kind: str) -> list[str]:
    """Padding on the left is for decoders: their encoders then count other positions than ours."""
    return ["full", "right", "left"] if kind in ("gpt2", "roberta", *LLAMAS) else ["full", "right"]


VARIANTS = {
    "untied": ("bert", dict(tie_word_embeddings=False)),
    "untied roberta": ("roberta", dict(tie_word_embeddings=False)),
    "untied distilbert": ("distilbert", dict(tie_word_embeddings=False)),
    "untied gpt2": ("gpt2", dict(tie_word_embeddings=False)),
    "one segment": ("roberta", dict(type_vocab_size=1)),
    "other padding": ("roberta", dict(pad_token_id=0, max_position_embeddings=14)),
    "relu": ("bert", dict(hidden_act="relu", layer_norm_eps=1e-3)),
    "tanh": ("bert", dict(hidden_act="gelu_new")),
    "erf": ("gpt2", dict(activation_function="gelu", layer_norm_epsilon=1e-3)),
    "scaled": ("bart", dict(scale_embedding=True, activation_function="relu")),
    "sinusoids": ("distilbert", dict(sinusoidal_pos_embds=True)),
}
CASES = {f"{kind} {name}": (kind, shape, {}) for kind in LAYOUTS for name, shape in SHAPES.items()}
CASES |= {name: (kind, SHAPES["a"], changes) for name, (kind, changes) in VARIANTS.items()}


@pytest.mark.parametrize("case", CASES)
def test_their_folders_here_and_back(case, tmp_path, capsys):
    kind, shape, changes = CASES[case]
    theirs = their_model(kind, shape, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    mine, tokenizer = minilm.load(tmp_path / "theirs")
    assert tokenizer is None and "drawn at random" not in capsys.readouterr().err
    assert_equal(mine, theirs, masks_of(kind))
    again, report = type(theirs).from_pretrained(exported(mine, tmp_path), output_loading_info=True)
    assert not any(report.values()), f"every weight has its place: {report}"
    assert again.config.model_type == ("llama" if kind == "mistral" else kind), "without a window the same"
    assert_equal(mine, again.eval(), masks_of(kind))


def test_pickled_folders_and_shards(tmp_path):
    theirs = their_model("gpt2", SHAPES["c"])
    theirs.config.save_pretrained(tmp_path / "pickled")
    torch.save(theirs.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")  # tied weights twice
    mine, _ = minilm.load(tmp_path / "pickled")
    assert_equal(mine, theirs, ["left"])
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len([*(tmp_path / "sharded").glob("*.safetensors")]) > 2
    assert_equal(minilm.load(tmp_path / "sharded")[0], theirs, ["left"])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_folders_without_heads(kind, tmp_path, capsys):
    theirs = their_model(kind, SHAPES["b"])
    theirs.base_model.save_pretrained(tmp_path / "bare")
    mine, _ = minilm.load(tmp_path / "bare")
    found = differences(mine, theirs, RIGHT)
    assert all(value < 1e-4 for name, value in found.items() if "layer" in name), found
    assert ("drawn at random" in capsys.readouterr().err) == (kind not in ("gpt2", "bart", "blenderbot"))


@pytest.mark.parametrize("kind", ["bert", "roberta", "megatron-bert"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pooled_output_of_folders_without_heads(kind, shape, tmp_path):
    config = transformers.AutoConfig.for_model(kind, **sizes(kind, SHAPES[shape]))
    theirs = randomise(transformers.AutoModel.from_config(config))
    theirs.save_pretrained(tmp_path / "theirs")
    mine, _ = minilm.load(tmp_path / "theirs")
    again = transformers.AutoModel.from_pretrained(exported(mine, tmp_path)).eval()
    ids = torch.randint(3, config.vocab_size, (B, S))
    ids = ids.where(RIGHT.bool(), torch.tensor(1))  # what RoBERTa knows padding by
    for dtype, tolerance in PRECISION:
        mine, theirs, again = mine.to(dtype), theirs.to(dtype), again.to(dtype)
        with torch.no_grad():
            pooled = mine.pooled(mine.hidden_states(ids, RIGHT)[-1])
            for other in (theirs, again):
                assert (pooled - other(ids, attention_mask=RIGHT).pooler_output).abs().max() < tolerance


PRESETS = {
    "bert-tiny": ("megatron-bert", dict(head_transform=True)),
    "distilbert-tiny": ("megatron-bert", dict(head_transform=True, positions="sinusoidal")),
    "gpt-tiny": ("gpt2", {}),
    "bart-tiny": ("blenderbot", dict(positions="learned")),
    "transformer-tiny": ("blenderbot", {}),
    "transformer-base": ("bart", dict(embedding_norm=True)),
    "bert-base": ("bert", {}),
    "distilbert": ("distilbert", {}),
    "gpt2": ("gpt2", dict(positions="sinusoidal")),
    "bart-base": ("bart", {}),
}


@pytest.mark.parametrize("name", PRESETS)
def test_our_presets_are_models_of_theirs(name, tmp_path):
    kind, changes = PRESETS[name]
    small = dict(vocab_size=V, d_model=24, n_head=3, d_ff=40, max_positions=9)
    config = asdict(minilm.PRESETS[name]) | small | changes
    config |= {n: min(2, config[n]) for n in ("n_encoder_layer", "n_decoder_layer")}
    mine = randomise(build(ModelConfig(**config)))
    architecture = getattr(transformers, LAYOUTS[kind].architecture)
    theirs = architecture.from_pretrained(exported(mine, tmp_path)).eval()
    assert theirs.config.model_type == kind
    assert_equal(mine, theirs, masks_of(kind))


def test_an_encoder_is_exported_without_the_head_that_they_lack(tmp_path):
    config = asdict(minilm.PRESETS["bert-tiny"]) | dict(vocab_size=V, max_positions=9)
    mine = randomise(build(ModelConfig(**config)))
    minilm.save(mine, None, tmp_path / "ours")
    notes = minilm.huggingface.export(tmp_path / "ours", tmp_path / "exported")
    assert "--head-transform" in notes[0]
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "exported").eval()
    pairs = transformers.AutoModelForNextSentencePrediction.from_pretrained(tmp_path / "exported").eval()
    given = dict(input_ids=torch.randint(V, (B, S)), attention_mask=RIGHT, token_type_ids=RIGHT.flip(1))
    with torch.no_grad():
        hidden = mine.hidden_states(**given)[-1]
        expected = theirs(**given)
        assert (hidden - expected.last_hidden_state)[RIGHT.bool()].abs().max() < 1e-4
        assert (mine.pooled(hidden) - expected.pooler_output).abs().max() < 1e-4
        assert (mine.next_sentence_logits(hidden) - pairs(**given).logits).abs().max() < 1e-4


TEXTS = ["Ana sells bread on Monday.", " two  spaces,\ta tab\nand\r\nlines", "a [SEP] b[MASK]", ""]
TEXTS += ["naïve café — 漢字 한국어 👩‍👩‍👧 don't 12,5"]


@pytest.mark.parametrize("preset", ["bert-tiny", "gpt-tiny", "transformer-tiny"])
def test_our_bpe_there(preset, tmp_path):
    bpe = BPE.train(TEXTS * 3 + ["bread on Monday, bread on Sunday"], 330, SPECIAL_TOKENS)
    config = asdict(minilm.PRESETS[preset]) | dict(vocab_size=bpe.vocab_size, max_positions=9)
    folder = exported(build(ModelConfig(**config)), tmp_path, bpe)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == bpe.encode(text), text
        assert theirs.decode(bpe.encode(text)) == text
    framed = theirs("bread", "a")["input_ids"]
    ours = bpe.encode("bread"), bpe.encode("a")
    cls, sep = bpe.special_id("[CLS]"), bpe.special_id("[SEP]")
    if preset == "gpt-tiny":
        assert framed == ours[0] + ours[1]
    else:
        assert framed == [cls, *ours[0], sep, *ours[1], sep], "framed as in training"
    segments = [0] * (len(ours[0]) + 2) + [1] * (len(ours[1]) + 1) if preset == "bert-tiny" else None
    assert theirs("bread", "a").get("token_type_ids") == segments
    assert (theirs.pad_token_id, theirs.mask_token_id) == tuple(map(bpe.special_id, ("[PAD]", "[MASK]")))
    again, reread = minilm.load(folder)
    for text in TEXTS:
        assert reread.encode(text) == bpe.encode(text)
    assert reread.special_id("[SEP]") == sep and again.config.vocab_size == bpe.vocab_size


@pytest.mark.parametrize("lower_case", [True, False])
def test_our_wordpiece_there(lower_case, tmp_path):
    words = ["ana", "Ana", "sell", "##s", "bread", "on", "naive", "naïve", "cafe", "café"]
    words += ["漢", ",", "##y", "12"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    wordpiece = WordPiece(tokens, lower_case=lower_case, chinese_characters=True)
    config = asdict(minilm.PRESETS["bert-base"]) | dict(vocab_size=len(words) + 5, d_model=12, d_ff=8)
    folder = exported(build(ModelConfig(**config | dict(n_encoder_layer=1))), tmp_path, wordpiece)
    theirs, (_, reread) = transformers.AutoTokenizer.from_pretrained(folder), minilm.load(folder)
    for text in TEXTS:
        ids = wordpiece.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids == reread.encode(text), text
        assert theirs(text)["input_ids"] == [2, *ids, 3]


@pytest.mark.parametrize("preset", ["gpt-tiny", "transformer-tiny"])
def test_an_exported_model_writes_the_same_text(preset, tmp_path):
    bpe = BPE.train(TEXTS * 3, 300, SPECIAL_TOKENS)
    config = asdict(minilm.PRESETS[preset]) | dict(vocab_size=bpe.vocab_size, max_positions=30)
    mine = randomise(build(ModelConfig(**config)))
    writes = "AutoModelForCausalLM" if preset == "gpt-tiny" else "AutoModelForSeq2SeqLM"
    theirs = getattr(transformers, writes).from_pretrained(exported(mine, tmp_path, bpe)).eval()
    ids = bpe.encode("Ana sells")
    options = dict(temperature=0, eos_id=theirs.config.eos_token_id)
    if preset != "gpt-tiny":
        options |= dict(decoder_start_id=bpe.special_id("[CLS]"))
    expected = theirs.generate(torch.tensor([ids]), max_new_tokens=14, do_sample=False, num_beams=1)[0]
    found = minilm.generate(mine, ids, max_new_tokens=14, **options)
    assert found == expected.tolist()[: len(found)] and len(found) > 5
