"""Our models equal those of Hugging Face with the same random weights, copied name by name.

Logits, every hidden state and the pooled heads agree to 1e-4 in float32 and to 1e-9 in float64, with padding.
No download: the other models are built from their configuration classes, at small unequal sizes.
"""

import pytest
import torch

from minilm.config import ModelConfig
from minilm.models import Transformer, build

transformers = pytest.importorskip("transformers")

B, T, S, V, D, H, D_FF, L = 3, 6, 8, 53, 24, 3, 40, 2
SIZES = dict(vocab_size=V, d_model=D, n_head=H, d_ff=D_FF, max_positions=11)
RIGHT = torch.tensor([[1] * 5 + [0] * 3, [1] * 8, [1] * 7 + [0]])
LEFT = RIGHT.flip(1)
PRECISION = [(torch.float32, 1e-4), (torch.float64, 1e-9)]

# Ours -> theirs. `{i}` is the number of the block; weight and bias are copied of each.
BERT_BLOCK = {
    "self_attention.q": "attention.self.query",
    "self_attention.k": "attention.self.key",
    "self_attention.v": "attention.self.value",
    "self_attention.out": "attention.output.dense",
    "self_attention_norm": "attention.output.LayerNorm",
    "feed_forward.up": "intermediate.dense",
    "feed_forward.down": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
BERT = {
    "tokens": "bert.embeddings.word_embeddings",
    "encoder.embeddings.position": "bert.embeddings.position_embeddings",
    "encoder.embeddings.segment": "bert.embeddings.token_type_embeddings",
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
    **{f"encoder.blocks.{{i}}.{a}": f"bert.encoder.layer.{{i}}.{b}" for a, b in BERT_BLOCK.items()},
    "pooler": "bert.pooler.dense",
    "next_sentence": "cls.seq_relationship",
    "vocabulary.dense": "cls.predictions.transform.dense",
    "vocabulary.norm": "cls.predictions.transform.LayerNorm",
    "vocabulary": "cls.predictions",  # its bias
}
DISTILBERT_BLOCK = {
    "self_attention.q": "attention.q_lin",
    "self_attention.k": "attention.k_lin",
    "self_attention.v": "attention.v_lin",
    "self_attention.out": "attention.out_lin",
    "self_attention_norm": "sa_layer_norm",
    "feed_forward.up": "ffn.lin1",
    "feed_forward.down": "ffn.lin2",
    "feed_forward_norm": "output_layer_norm",
}
DISTILBERT = {
    "tokens": "distilbert.embeddings.word_embeddings",
    "encoder.embeddings.position": "distilbert.embeddings.position_embeddings",
    "encoder.embeddings.norm": "distilbert.embeddings.LayerNorm",
    **{
        f"encoder.blocks.{{i}}.{a}": f"distilbert.transformer.layer.{{i}}.{b}"
        for a, b in DISTILBERT_BLOCK.items()
    },
    "vocabulary.dense": "vocab_transform",
    "vocabulary.norm": "vocab_layer_norm",
    "vocabulary": "vocab_projector",  # its bias
}
GPT2_BLOCK = {
    "self_attention.q": "attn.c_attn.q",
    "self_attention.k": "attn.c_attn.k",
    "self_attention.v": "attn.c_attn.v",
    "self_attention.out": "attn.c_proj",
    "self_attention_norm": "ln_1",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
    "feed_forward_norm": "ln_2",
}
GPT2 = {
    "tokens": "transformer.wte",
    "decoder.embeddings.position": "transformer.wpe",
    **{f"decoder.blocks.{{i}}.{a}": f"transformer.h.{{i}}.{b}" for a, b in GPT2_BLOCK.items()},
    "decoder.norm": "transformer.ln_f",
}
BART_BLOCK = {
    "self_attention.q": "self_attn.q_proj",
    "self_attention.k": "self_attn.k_proj",
    "self_attention.v": "self_attn.v_proj",
    "self_attention.out": "self_attn.out_proj",
    "self_attention_norm": "self_attn_layer_norm",
    "feed_forward.up": "fc1",
    "feed_forward.down": "fc2",
    "feed_forward_norm": "final_layer_norm",
}
BART_CROSS = {
    "cross_attention.q": "encoder_attn.q_proj",
    "cross_attention.k": "encoder_attn.k_proj",
    "cross_attention.v": "encoder_attn.v_proj",
    "cross_attention.out": "encoder_attn.out_proj",
    "cross_attention_norm": "encoder_attn_layer_norm",
}
BART = {
    "tokens": "model.shared",
    **{
        f"{side}.embeddings.{a}": f"model.{side}.{b}"
        for side in ("encoder", "decoder")
        for a, b in {"position": "embed_positions", "norm": "layernorm_embedding"}.items()
    },
    **{f"encoder.blocks.{{i}}.{a}": f"model.encoder.layers.{{i}}.{b}" for a, b in BART_BLOCK.items()},
    **{
        f"decoder.blocks.{{i}}.{a}": f"model.decoder.layers.{{i}}.{b}"
        for a, b in (BART_BLOCK | BART_CROSS).items()
    },
}


def randomise(model) -> dict:
    """Give each parameter its own value; return them by name, GPT-2's matrices turned and cut in three."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    weights = {}
    for name, value in model.state_dict().items():
        if ".c_" in name and name.endswith("weight"):
            value = value.T  # GPT-2 stores (in, out), torch.nn.Linear (out, in)
        weights[name] = value
        if ".c_attn." in name:
            stem, what = name.rsplit(".", 1)
            weights |= {f"{stem}.{part}.{what}": x for part, x in zip("qkv", value.chunk(3), strict=True)}
    return weights


def ours(config: ModelConfig, names: dict, theirs) -> Transformer:
    """Our model with the weights of theirs; every weight of ours must have a name in the table."""
    weights, model = randomise(theirs), build(config)
    state = {}
    for name in model.state_dict():
        stem, what = name.rsplit(".", 1)
        parts = stem.split(".")
        number = next((part for part in parts if part.isdigit()), "")
        other = names[".".join("{i}" if part.isdigit() else part for part in parts)].replace("{i}", number)
        state[name] = weights[f"{other}.{what}"]
    model.load_state_dict(state, strict=True)
    return model.eval()


def agree(
    mine: torch.Tensor, other: torch.Tensor, tolerance: float, real: torch.Tensor | None = None
) -> None:
    """Assert equality, of the real tokens only where there is padding: nobody reads the others."""
    assert mine.shape == other.shape
    difference = (mine - other).abs()
    assert (difference if real is None else difference[real.bool()]).max() < tolerance


def agree_on_states(mine: tuple, other: tuple, tolerance: float, real: torch.Tensor | None) -> None:
    assert len(mine) == len(other), "n_layer + 1 hidden states"
    for one, two in zip(mine, other, strict=True):
        agree(one, two, tolerance, real)


def ids(length: int) -> torch.Tensor:
    return torch.randint(3, V, (B, length))  # the first ids are special tokens of theirs


@pytest.mark.parametrize("mask", [None, RIGHT], ids=["full", "right"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=["float32", "float64"])
def test_bert(dtype, tolerance, mask):
    sizes = dict(vocab_size=V, hidden_size=D, num_attention_heads=H, num_hidden_layers=L)
    sizes |= dict(intermediate_size=D_FF, max_position_embeddings=11, type_vocab_size=2)
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**sizes)).eval()
    config = ModelConfig(
        **SIZES, n_encoder_layer=L, norm="post", embedding_norm=True, head_transform=True, head_bias=True
    )
    config = ModelConfig(
        **(config.to_dict() | dict(n_segments=2, pooler=True, next_sentence=True, norm_eps=1e-12))
    )
    mine = ours(config, BERT, theirs).to(dtype)
    theirs = theirs.to(dtype)
    given = dict(input_ids=ids(S), attention_mask=mask, token_type_ids=torch.randint(2, (B, S)))
    expected = theirs(**given, output_hidden_states=True)
    states = mine.hidden_states(**given)
    agree_on_states(states, expected.hidden_states, tolerance, mask)
    agree(mine(**given), expected.prediction_logits, tolerance, mask)
    agree(mine.next_sentence_logits(states[-1]), expected.seq_relationship_logits, tolerance)
    agree(mine.pooled(states[-1]), theirs.bert(**given).pooler_output, tolerance)


@pytest.mark.parametrize("mask", [None, RIGHT], ids=["full", "right"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=["float32", "float64"])
def test_distilbert(dtype, tolerance, mask):
    sizes = dict(vocab_size=V, dim=D, n_heads=H, n_layers=L, hidden_dim=D_FF, max_position_embeddings=11)
    theirs = transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**sizes)).eval()
    heads = dict(head_transform=True, head_bias=True, norm_eps=1e-12)
    config = ModelConfig(**SIZES, n_encoder_layer=L, norm="post", embedding_norm=True, **heads)
    mine = ours(config, DISTILBERT, theirs).to(dtype)
    given = dict(input_ids=ids(S), attention_mask=mask)
    expected = theirs.to(dtype)(**given, output_hidden_states=True)
    agree_on_states(mine.hidden_states(**given), expected.hidden_states, tolerance, mask)
    agree(mine(**given), expected.logits, tolerance, mask)


@pytest.mark.parametrize("mask", [None, LEFT, RIGHT], ids=["full", "left", "right"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=["float32", "float64"])
def test_gpt2(dtype, tolerance, mask):
    sizes = dict(vocab_size=V, n_embd=D, n_head=H, n_layer=L, n_inner=D_FF, n_positions=11)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    config = ModelConfig(**SIZES, n_decoder_layer=L, norm="pre", final_norm=True, activation="gelu_tanh")
    mine = ours(config, GPT2, theirs).to(dtype)
    given = dict(input_ids=ids(S), attention_mask=mask)
    # Theirs counts padding as positions unless it is told otherwise.
    positions = None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs.to(dtype)(**given, position_ids=positions, output_hidden_states=True)
    agree_on_states(mine.hidden_states(**given), expected.hidden_states, tolerance, mask)
    agree(mine(**given), expected.logits, tolerance, mask)


@pytest.mark.parametrize("mask", [None, RIGHT], ids=["full", "right"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION, ids=["float32", "float64"])
def test_bart(dtype, tolerance, mask):
    sizes = dict(vocab_size=V, d_model=D, max_position_embeddings=11, encoder_layers=L, decoder_layers=L + 1)
    sizes |= dict(
        encoder_attention_heads=H, decoder_attention_heads=H, encoder_ffn_dim=D_FF, decoder_ffn_dim=D_FF
    )
    theirs = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes)).eval()
    config = ModelConfig(
        **SIZES, n_encoder_layer=L, n_decoder_layer=L + 1, norm="post", embedding_norm=True, position_offset=2
    )
    mine = ours(config, BART, theirs).to(dtype)
    decoder_mask = None if mask is None else mask[:, 2:]
    given = dict(input_ids=ids(S), attention_mask=mask)
    given |= dict(decoder_input_ids=ids(T), decoder_attention_mask=decoder_mask)
    expected = theirs.to(dtype)(**given, output_hidden_states=True)
    encoded = mine.encode(given["input_ids"], mask)
    agree_on_states(encoded, expected.encoder_hidden_states, tolerance, mask)
    agree_on_states(mine.hidden_states(**given), expected.decoder_hidden_states, tolerance, decoder_mask)
    agree(mine(**given), expected.logits, tolerance, decoder_mask)
