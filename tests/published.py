"""Tiny folders in the layout of published models, written by hand, for the tests of minilm/huggingface."""

import json
from pathlib import Path

import torch

from minilm.plumbing.safetensors import write_tensors
from minilm.tokenizer.bpe import BPE, token_name

D, F, P = 12, 20, 32  # width, inner width, positions
WORDS = ["ana", "rui", "the", "old", "baker", "sell", "##s", "found", "like", "##d", "bread", "a", "lamp"]
WORDS += ["two", "red", "pen", "on", "monday", ",", ".", "b", "##a", "##r"]
LETTERS = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789'" for prefix in ("", "##")]
BERT_TOKENS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS + LETTERS)]
TEXTS = ["Ana sells bread. Rui found a lamp.", "The old baker likes two red pens on Monday."] * 5


def bpe(specials: list[str]) -> BPE:
    """Return a BPE whose first special tokens stand before and whose mask stands after the other tokens."""
    plain = BPE.train(TEXTS, 290)
    first = [token for token in specials if token not in ("<mask>", "<|endoftext|>")]
    tokens = [token.encode() for token in first] + [plain.vocab[i] for i in range(290)]
    tokens += [token.encode() for token in specials if token not in first]
    return BPE(dict(enumerate(tokens)), plain.merges, specials)


SPECIALS = {"gpt2": ["<|endoftext|>"], "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]}
SPECIALS["bart"] = SPECIALS["roberta"]


def linear(name: str, n_in: int, n_out: int, turned: bool = False) -> dict[str, torch.Tensor]:
    """Return the random weight and bias of one layer; `turned` as in GPT-2, (in, out)."""
    shape = (n_in, n_out) if turned else (n_out, n_in)
    return {f"{name}.weight": torch.randn(shape) * 0.3, f"{name}.bias": torch.randn(n_out) * 0.3}


def norm(name: str) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + torch.randn(D) * 0.1, f"{name}.bias": torch.randn(D) * 0.1}


def layers(pairs: dict[str, tuple[int, int]], prefix: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, (n_in, n_out) in pairs.items():
        tensors |= linear(prefix + name, n_in, n_out)
    return tensors


def bert(prefix: str = "bert.", V: int = len(BERT_TOKENS), segments: int = 2, rows: int = P) -> dict:
    tensors = {f"{prefix}embeddings.word_embeddings.weight": torch.randn(V, D) * 0.3}
    tensors[f"{prefix}embeddings.position_embeddings.weight"] = torch.randn(rows, D) * 0.3
    tensors[f"{prefix}embeddings.token_type_embeddings.weight"] = torch.randn(segments, D) * 0.3
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(rows)[None]
    tensors |= norm(f"{prefix}embeddings.LayerNorm")
    for i in range(2):
        layer = f"{prefix}encoder.layer.{i}."
        tensors |= layers({f"attention.self.{q}": (D, D) for q in ("query", "key", "value")}, layer)
        tensors |= layers({"attention.output.dense": (D, D), "intermediate.dense": (D, F)}, layer)
        tensors |= layers({"output.dense": (F, D)}, layer)
        tensors |= norm(layer + "attention.output.LayerNorm") | norm(layer + "output.LayerNorm")
    return tensors


def bert_heads(V: int = len(BERT_TOKENS)) -> dict:
    tensors = linear("bert.pooler.dense", D, D) | linear("cls.seq_relationship", D, 2)
    tensors |= linear("cls.predictions.transform.dense", D, D) | norm("cls.predictions.transform.LayerNorm")
    return tensors | {"cls.predictions.bias": torch.randn(V) * 0.3}


def roberta(V: int) -> dict:
    tensors = bert("roberta.", V, segments=1, rows=P + 2)
    tensors |= linear("lm_head.dense", D, D) | norm("lm_head.layer_norm")
    return tensors | {"lm_head.bias": torch.randn(V) * 0.3}


def distilbert(V: int = len(BERT_TOKENS)) -> dict:
    tensors = {"distilbert.embeddings.word_embeddings.weight": torch.randn(V, D) * 0.3}
    tensors["distilbert.embeddings.position_embeddings.weight"] = torch.randn(P, D) * 0.3
    tensors |= norm("distilbert.embeddings.LayerNorm")
    for i in range(2):
        layer = f"distilbert.transformer.layer.{i}."
        tensors |= layers({f"attention.{q}_lin": (D, D) for q in ("q", "k", "v", "out")}, layer)
        tensors |= layers({"ffn.lin1": (D, F), "ffn.lin2": (F, D)}, layer)
        tensors |= norm(layer + "sa_layer_norm") | norm(layer + "output_layer_norm")
    tensors |= linear("vocab_transform", D, D) | norm("vocab_layer_norm")
    tensors["vocab_projector.weight"] = tensors["distilbert.embeddings.word_embeddings.weight"].clone()
    return tensors | {"vocab_projector.bias": torch.randn(V) * 0.3}


def gpt2(V: int, prefix: str = "") -> dict:
    tensors = {f"{prefix}wte.weight": torch.randn(V, D) * 0.3, f"{prefix}wpe.weight": torch.randn(P, D) * 0.3}
    for i in range(2):
        layer = f"{prefix}h.{i}."
        tensors |= linear(layer + "attn.c_attn", D, 3 * D, True) | linear(layer + "attn.c_proj", D, D, True)
        tensors |= linear(layer + "mlp.c_fc", D, F, True) | linear(layer + "mlp.c_proj", F, D, True)
        tensors |= norm(layer + "ln_1") | norm(layer + "ln_2")
        tensors[layer + "attn.bias"] = torch.ones(1, 1, P, P).tril()
        tensors[layer + "attn.masked_bias"] = torch.tensor(-1e4)
    return tensors | norm(f"{prefix}ln_f")


def bart(V: int) -> dict:
    tensors = {"model.shared.weight": torch.randn(V, D) * 0.3, "final_logits_bias": torch.randn(1, V) * 0.3}
    for side in ("encoder", "decoder"):
        tensors[f"model.{side}.embed_positions.weight"] = torch.randn(P + 2, D) * 0.3
        tensors |= norm(f"model.{side}.layernorm_embedding")
        for i in range(2):
            layer = f"model.{side}.layers.{i}."
            for part in ("self_attn", "encoder_attn")[: 1 + (side == "decoder")]:
                tensors |= layers({f"{part}.{q}_proj": (D, D) for q in ("q", "k", "v", "out")}, layer)
                tensors |= norm(f"{layer}{part}_layer_norm")
            tensors |= layers({"fc1": (D, F), "fc2": (F, D)}, layer) | norm(layer + "final_layer_norm")
    tensors["model.encoder.embed_tokens.weight"] = tensors["model.shared.weight"].clone()
    return tensors


_BERT_SIZES = dict(hidden_size=D, num_hidden_layers=2, num_attention_heads=3, intermediate_size=F)
CONFIGS = {
    "bert": _BERT_SIZES | dict(max_position_embeddings=P, type_vocab_size=2, vocab_size=len(BERT_TOKENS)),
    "roberta": _BERT_SIZES | dict(max_position_embeddings=P + 2, type_vocab_size=1, layer_norm_eps=1e-5),
    "distilbert": dict(dim=D, n_layers=2, n_heads=3, hidden_dim=F, max_position_embeddings=P)
    | dict(vocab_size=len(BERT_TOKENS)),
    "gpt2": dict(n_embd=D, n_layer=2, n_head=3, n_inner=F, n_positions=P, n_ctx=P),
    "bart": dict(d_model=D, encoder_layers=2, decoder_layers=2, max_position_embeddings=P)
    | dict(encoder_attention_heads=3, decoder_attention_heads=3, encoder_ffn_dim=F, decoder_ffn_dim=F),
}


def folder(path: Path, kind: str, tensors: dict | None = None, **changes) -> Path:
    """Write a folder with config, weights and vocabulary of this type; `changes` go into config.json."""
    path.mkdir()
    torch.manual_seed(1)
    config = {"model_type": kind} | CONFIGS[kind]
    if kind in SPECIALS:
        tokenizer = bpe(SPECIALS[kind])
        config["vocab_size"] = V = tokenizer.vocab_size
        write_bpe_files(path, tokenizer)
        made = {"gpt2": gpt2, "roberta": roberta, "bart": bart}[kind](V)
    else:
        (path / "vocab.txt").write_text("\n".join(BERT_TOKENS) + "\n", encoding="utf-8")
        made = distilbert() if kind == "distilbert" else bert() | bert_heads()
    (path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    write_tensors(path / "model.safetensors", made if tensors is None else tensors)
    return path


def write_bpe_files(path: Path, tokenizer: BPE) -> None:
    """Write vocab.json and merges.txt as GPT-2's."""
    special = {tokenizer.special_id(token): token for token in tokenizer.special_tokens}
    names = {special.get(i) or token_name(token): i for i, token in tokenizer.vocab.items()}
    (path / "vocab.json").write_text(json.dumps(names), encoding="utf-8")
    lines = [" ".join(token_name(token) for token in pair) for pair in tokenizer.merges]
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")
