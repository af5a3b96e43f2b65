"""The weights of a Hugging Face folder: its files, and the few tensors that are laid out unlike ours."""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from ..model.config import ModelConfig
from ..plumbing.errors import UserError
from ..plumbing.folders import read_json
from ..plumbing.safetensors import read_tensors

# What `torch.load` raises for damaged files, by the place of the damage.
DAMAGE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, OSError)
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
FILES = (SAFE, SAFE + ".index.json", PICKLED, PICKLED + ".index.json")  # the first there is, is read
MATRICES = re.compile(r"transformer\.h\.\d+\.(attn|mlp)\.c_\w+\.weight")  # GPT-2's, which are turned
FUSED = re.compile(r"(transformer\.h\.\d+\.attn\.c_attn)\.(weight|bias)")  # q, k and v in one


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder by their names in it: one file, or several that an index lists.

    UserError where there is none, a shard is missing, or a file is damaged.
    """
    name = next((name for name in FILES if (folder / name).exists()), None)
    if name is None:
        raise UserError(f"{folder}: no weights in it; expected one of {', '.join(FILES)}")
    if not name.endswith(".index.json"):
        return read_file(folder / name)
    listed = read_json(folder / name).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
        raise UserError(f"{folder / name}: no weight_map of tensors and files in it")
    tensors = {}
    for shard in dict.fromkeys(listed.values()):
        if Path(shard).name != shard:
            raise UserError(f"{folder / name}: {shard!r} is not the name of a file in the folder")
        if not (folder / shard).exists():
            raise UserError(f"{folder}: the shard {shard} is missing")
        tensors |= read_file(folder / shard)
    if absent := [tensor for tensor in listed if tensor not in tensors]:
        raise UserError(f"{folder}: {absent[0]} is not in {listed[absent[0]]}, where {name} says it is")
    return tensors


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file, a safetensors file or one of torch.save; UserError where damaged."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused, it holds more than tensors, and that could run code") from None
    except DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged, or not a file of torch.save ({reason})") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UserError(f"{path}: not a dictionary of tensors")
    return tensors


def unpack(tensors: dict[str, Tensor], kind: str, config: ModelConfig) -> dict[str, Tensor]:
    """Return tensors as the name tables have them: matrices (out, in), q, k and v apart, float32.

    A lone row of segments is added to every position: each token has it, so the sum is the same.
    """
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    if kind == "gpt2":
        for name in [name for name in tensors if MATRICES.fullmatch(name) and tensors[name].dim() == 2]:
            tensors[name] = tensors[name].T
        for name in [name for name in tensors if FUSED.fullmatch(name) and can_be_cut(tensors[name])]:
            stem, what = FUSED.fullmatch(name).groups()
            parts = tensors.pop(name).chunk(3)
            tensors |= {f"{stem}.{part}.{what}": x for part, x in zip("qkv", parts, strict=True)}
    if "final_logits_bias" in tensors:  # (1, V)
        tensors["final_logits.bias"] = tensors.pop("final_logits_bias").flatten()
    segments = next((name for name in tensors if name.endswith("token_type_embeddings.weight")), None)
    if segments and not config.n_segments and tensors[segments].shape[:1] == (1,):
        positions = segments.replace("token_type", "position")
        if positions in tensors and tensors[positions].shape[1:] == tensors[segments].shape[1:]:
            tensors[positions] = tensors[positions] + tensors.pop(segments)
    return tensors


def can_be_cut(fused: Tensor) -> bool:
    """Return whether a tensor has three equal parts; another shape is reported where shapes are compared."""
    return fused.dim() > 0 and len(fused) % 3 == 0


def pack(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Undo `unpack`, but for the segments."""
    tensors = dict(tensors)
    if kind == "gpt2":
        for name in [name for name in tensors if ".c_attn.q." in name]:
            parts = [tensors.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
            tensors[name.replace(".q.", ".")] = torch.cat(parts)
        for name in filter(MATRICES.fullmatch, list(tensors)):
            tensors[name] = tensors[name].T
    if "final_logits.bias" in tensors:
        tensors["final_logits_bias"] = tensors.pop("final_logits.bias")[None]
    return tensors
