"""Our names of weights and those of transformers: tables, one column for each architecture ("-": none).

Theirs are from the class with all pre-training heads (`BertForPreTraining` and so on). They name modules; the
weight and bias of each are copied. A column may name modules that a model type does not have.
"""

import re


def columns(text: str) -> list[dict[str, str]]:
    """Return a dictionary for each column but the first, from the first column to it; "|" ends a row too."""
    first, *others = zip(*(row.split() for row in re.split(r"[|\n]", text.strip())), strict=True)
    return [{a: b for a, b in zip(first, other, strict=True) if b != "-"} for other in others]


# Outside the blocks, after the prefix.
_BERT, _GPT2, _BART, _LLAMA = columns("""
tokens                       embeddings.word_embeddings        wte   shared                       embed_tokens
encoder.embeddings.position  embeddings.position_embeddings    -     encoder.embed_positions      -
encoder.embeddings.segment   embeddings.token_type_embeddings  -     -                            -
encoder.embeddings.norm      embeddings.LayerNorm              -     encoder.layernorm_embedding  -
encoder.norm                 encoder.ln                        -     encoder.layer_norm           -
decoder.embeddings.position  -                                 wpe   decoder.embed_positions      -
decoder.embeddings.norm      -                                 -     decoder.layernorm_embedding  -
decoder.norm                 -                                 ln_f  decoder.layer_norm           norm
pooler                       pooler.dense                      -     -                            -
""")
# Inside a block. GPT-2 has q, k and v in one matrix, and its matrices transposed: see `loading.unpack`.
_BERT_BLOCK, _DISTIL_BLOCK, _GPT2_BLOCK, _BART_BLOCK = columns("""
self_attention.q      attention.self.query        attention.q_lin    attn.c_attn.q  self_attn.q_proj
self_attention.k      attention.self.key          attention.k_lin    attn.c_attn.k  self_attn.k_proj
self_attention.v      attention.self.value        attention.v_lin    attn.c_attn.v  self_attn.v_proj
self_attention.out    attention.output.dense      attention.out_lin  attn.c_proj    self_attn.out_proj
self_attention_norm   attention.output.LayerNorm  sa_layer_norm      ln_1           self_attn_layer_norm
feed_forward.up       intermediate.dense          ffn.lin1           mlp.c_fc       fc1
feed_forward.down     output.dense                ffn.lin2           mlp.c_proj     fc2
feed_forward_norm     output.LayerNorm            output_layer_norm  ln_2           final_layer_norm
""")
(_LLAMA_BLOCK,) = columns("""
self_attention.q    self_attn.q_proj  | self_attention.q_norm self_attn.q_norm
self_attention.k    self_attn.k_proj  | self_attention.k_norm self_attn.k_norm
self_attention.v    self_attn.v_proj  | self_attention.out    self_attn.o_proj
self_attention_norm input_layernorm   | feed_forward_norm     post_attention_layernorm
feed_forward.gate   mlp.gate_proj     | feed_forward.up       mlp.up_proj
feed_forward.down   mlp.down_proj
""")
# The heads, which have no prefix; `vocabulary` itself has only a bias.
_BERT_HEADS, _ROBERTA_HEADS, _DISTIL_HEADS, _GPT2_HEADS, _BART_HEADS = columns("""
vocabulary.dense  cls.predictions.transform.dense     lm_head.dense      vocab_transform  -       -
vocabulary.norm   cls.predictions.transform.LayerNorm lm_head.layer_norm vocab_layer_norm -       -
vocabulary        cls.predictions                     lm_head            vocab_projector  -       final_logits
vocabulary.output cls.predictions.decoder             lm_head.decoder    vocab_projector  lm_head -
next_sentence     cls.seq_relationship                -                  -                -       -
""")
# BART's cross-attention, and BERT in pre-norm (Shoeybi et al. 2019, "Megatron-LM").
_CROSS = {ours: theirs for ours, theirs in _BART_BLOCK.items() if ours.startswith("self_attention")}
_BART_BLOCK |= {a.replace("self", "cross"): b.replace("self", "encoder") for a, b in _CROSS.items()}
_MEGATRON_BLOCK = _BERT_BLOCK | {"self_attention_norm": "attention.ln", "feed_forward_norm": "ln"}


class Names:
    """`table`: our module -> theirs, {i} a block; `prefix`, if heads are there; `copies`: second -> first."""

    def __init__(self, prefix: str, outside: dict, stacks: dict, block: dict, heads: dict, *seconds: str):
        rows = dict(outside)
        for side, theirs in stacks.items():
            rows |= {f"{side}.blocks.{{i}}.{a}": f"{theirs}.{{i}}.{b}" for a, b in block.items()}
        self.prefix, self.table = prefix, {a: prefix + b for a, b in rows.items()} | heads
        # Second names of the token embedding; old files of BERT and RoBERTa also have the head's bias there.
        self.copies = {f"{second}.weight": f"{self.table['tokens']}.weight" for second in seconds}
        self.copies |= {f"{s}.bias": f"{s[:-7]}bias" for s in seconds if s.endswith(".decoder")}


_LAYER, _DISTIL, _H = {"encoder": "encoder.layer"}, {"encoder": "transformer.layer"}, {"decoder": "h"}
_LAYERS = {"encoder": "encoder.layers", "decoder": "decoder.layers"}
_SHARED = ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")

NAMES: dict[str, Names] = {
    "bert": Names("bert.", _BERT, _LAYER, _BERT_BLOCK, _BERT_HEADS, "cls.predictions.decoder"),
    "megatron-bert": Names("bert.", _BERT, _LAYER, _MEGATRON_BLOCK, _BERT_HEADS, "cls.predictions.decoder"),
    "roberta": Names("roberta.", _BERT, _LAYER, _BERT_BLOCK, _ROBERTA_HEADS, "lm_head.decoder"),
    "distilbert": Names("distilbert.", _BERT, _DISTIL, _DISTIL_BLOCK, _DISTIL_HEADS, "vocab_projector"),
    "gpt2": Names("transformer.", _GPT2, _H, _GPT2_BLOCK, _GPT2_HEADS, "lm_head"),
    "bart": Names("model.", _BART, _LAYERS, _BART_BLOCK, _BART_HEADS, *_SHARED),
    "llama": Names("model.", _LLAMA, {"decoder": "layers"}, _LLAMA_BLOCK, _GPT2_HEADS, "lm_head"),
}
NAMES |= dict.fromkeys(("mistral", "qwen2", "qwen3"), NAMES["llama"])
NAMES["blenderbot"] = NAMES["bart"]  # in pre-norm (Roller et al. 2021)

# Tensors that are not weights: positions 0, 1, 2, ..., GPT-2's causal mask, BART's version, LLaMA's rotation.
BUFFERS = re.compile(r"(.*\.)?(position_ids|version|rotary_emb\.inv_freq)|(.*\.)?attn\.(bias|masked_bias)")
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def their_name(ours: str, names: Names) -> str | None:
    """Return a model type's name of one of our weights; None if it has no such weight."""
    module, _, what = ours.rpartition(".")
    number, theirs = NUMBER.search(module), names.table.get(NUMBER.sub("{i}", module))
    return theirs and f"{theirs.replace('{i}', number[0]) if number else theirs}.{what}"
