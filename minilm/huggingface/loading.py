"""A Hugging Face folder, or hf:NAME (downloaded first) -> our model and tokenizer.

Unexpected weights are an error, and missing ones too; but pre-training heads may be missing, and task heads
are left out. A download is kept in MINILM_CACHE, else ~/.cache/minilm, if sizes and SHA-256 are as the server
lists them; download.json, written last, says that it is complete. HF_ENDPOINT names another such server.
"""

import json
import os
import re
import socket
import sys
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from ..model.transformer import build, build_for_weights
from ..plumbing.errors import UserError, as_line
from ..plumbing.folders import CONFIG, WEIGHTS, make_folder, read_json, write_json
from ..plumbing.safetensors import check_state, read_tensors
from ..plumbing.settings import checked
from .configs import LAYOUTS, check_value, choice, to_model_config
from .names import BUFFERS, NAMES, their_name
from .tokenizers import read_tokenizer

PUBLISHED = "hf:"  # begins the name of a published model, which may be given in place of a folder
TIMEOUT = 30  # seconds without a byte
DONE, INDEX, PICKLED = "download.json", WEIGHTS + ".index.json", "pytorch_model.bin"
OTHERS = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
SENTENCES = "sentence_bert_config.json"  # of sentence-transformers models
GENERATION = "generation_config.json"  # we take its end tokens, not its settings for sampling
OTHERS += ("special_tokens_map.json", "added_tokens.json", SENTENCES, GENERATION)
HEADS = ("vocabulary", "pooler", "next_sentence")
TASK_HEADS = re.compile(r"(pre_classifier|classifier|classification_head|score|qa_outputs)\.")
MATRICES = re.compile(r"transformer\.h\.\d+\.(attn|mlp)\.c_\w+\.weight")  # GPT-2's, which are transposed


def load(path: str | Path, device: str = "cpu", dtype=torch.float32) -> tuple[nn.Module, object]:
    """Load as `checkpoint.load`; UserError for a weight of wrong name or shape; random heads are reported."""
    folder, values, config, tensors = read_folder(path)
    tokenizer, notes = read_tokenizer(folder, values)
    if tokenizer is not None and (n := tokenizer.vocab_size) > config.vocab_size:
        raise UserError(f"{folder / CONFIG}: vocab_size {config.vocab_size}, but the vocabulary has {n} ids")
    longest = read_json(folder / SENTENCES, optional=True).get("max_seq_length")
    if tokenizer is not None and longest is not None:
        longest = check_value(str(folder / SENTENCES), "max_seq_length", "max_positions", longest)
        tokenizer.longest = min(longest, config.max_positions)
    ends = read_json(folder / GENERATION, optional=True).get("eos_token_id")
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    if bad := [i for i in ends if type(i) is not int or not 0 <= i < config.vocab_size]:
        raise UserError(f"{folder / GENERATION}: eos_token_id {bad[0]!r} is no id of the model: remove it")
    if tokenizer is not None:
        tokenizer.ends = tuple(ends)
    notes += [f"left out {name}, part of a task head" for name in tensors if TASK_HEADS.match(name)]
    tensors = {name: tensor for name, tensor in tensors.items() if not TASK_HEADS.match(name)}
    model, names = build_for_weights(config, tensors, folder / CONFIG), NAMES[values["model_type"]]
    state = model.state_dict()
    theirs = {their_name(ours, names): ours for ours in state}
    # Of tied weights, drop those under a second name; if a file has only that one, it is used.
    for copy in [copy for copy in names.copies if copy in tensors and copy not in theirs]:
        name, second = names.copies[copy], tensors.pop(copy)
        if copy.endswith(".weight") and not torch.equal(second, tensors.get(name, second)):
            way_out = '"tie_word_embeddings": false there keeps both'
            raise UserError(f"{folder}: {copy} and {name} differ, but {CONFIG} ties them; {way_out}")
        # In an untied head, transformers adds the bias of the `decoder` layer: keep that one.
        tensors[name] = second if copy.replace(".bias", ".weight") in theirs else tensors.get(name, second)
    for name, tensor in tensors.items():  # one by one: memory never holds all of them twice
        tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    found = unpack(tensors, config)
    absent = [name for name in theirs if name not in found and theirs[name].split(".")[0] in HEADS]
    expected = {name: state[ours] for name, ours in theirs.items() if name not in absent}
    check_state(f"{folder / CONFIG}, or a weight file beside it,", found, expected)
    if odd := [name for name, tensor in found.items() if not tensor.is_floating_point()]:
        raise UserError(f"{folder}: {odd[0]} holds {found[odd[0]].dtype}, expected floats: is it quantised?")
    if absent:
        model = build(config)
    weights = {theirs[name]: tensor.contiguous() for name, tensor in found.items()}
    model.load_state_dict(weights, strict=False, assign=True)
    if heads := sorted({name.rpartition(".")[0] for name in absent}):
        notes = [f"missing, so drawn at random: {', '.join(heads)}", *notes]
    sys.stderr.writelines(as_line(f"{folder}: {note}") + "\n" for note in notes)
    return model.to(device, dtype).eval(), tokenizer


def read_folder(path: str | Path) -> tuple[Path, dict, ModelConfig, dict[str, Tensor]]:
    """Return the folder, its config.json, the ModelConfig, and the weights under the names in `names.py`."""
    folder = download(str(path)[len(PUBLISHED) :]) if str(path).startswith(PUBLISHED) else Path(path)
    values, where = read_json(folder / CONFIG), str(folder / CONFIG)
    choice(LAYOUTS, "model_type", values.get("model_type"), where)  # before gigabytes are read
    tensors, prefix = {}, NAMES[values["model_type"]].prefix
    found = {name: t for name, t in read_weights(folder).items() if not BUFFERS.fullmatch(name)}
    is_bare = not any(name.startswith(prefix) for name in found)  # a file without heads has no prefix
    for name, tensor in found.items():  # in old files the weights of norms are gamma and beta
        new = (prefix if is_bare else "") + re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        if new in tensors:
            raise UserError(f"{folder}: {new} is there twice, once as {name}")
        tensors[new] = tensor
    modules = {name for name in ("pooler", "final_logits_bias") if any(name in found for found in tensors)}
    return folder, values, to_model_config(values, where, modules), tensors


def unpack(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the tensors as in `names.py`: matrices (out, in), q, k, v apart; misshapen ones stay."""
    tensors = dict(tensors)
    for name in list(tensors):
        if MATRICES.fullmatch(name) and tensors[name].dim() == 2:
            tensors[name] = tensors[name].T
        fused = re.fullmatch(r"(transformer\.h\.\d+\.attn\.c_attn)\.(weight|bias)", name)
        if fused and tensors[name].dim() and len(tensors[name]) % 3 == 0:
            parts = tensors.pop(name).chunk(3)
            tensors |= {f"{fused[1]}.{part}.{fused[2]}": x for part, x in zip("qkv", parts, strict=True)}
    if "final_logits_bias" in tensors:  # (1, V)
        tensors["final_logits.bias"] = tensors.pop("final_logits_bias").flatten()
    segments = next((name for name in tensors if name.endswith("token_type_embeddings.weight")), None)
    if segments and not config.n_segments and tensors[segments].shape[:1] == (1,):
        positions = segments.replace("token_type", "position")
        # every token has the only row of segments, so it is added to every position
        if positions in tensors and tensors[positions].shape[1:] == tensors[segments].shape[1:]:
            tensors[positions] = tensors[positions] + tensors.pop(segments)
    return tensors


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return a folder's tensors by their names there: from one file, an index of several, or a pickle."""
    if (folder / WEIGHTS).exists():
        return read_tensors(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return {name: x for file in shards(folder) for name, x in read_tensors(folder / file).items()}
    if (folder / PICKLED).exists():
        try:
            found = torch.load(folder / PICKLED, map_location="cpu", weights_only=True)  # code never runs
            return {name + "": tensor.detach() for name, tensor in found.items()}  # names are texts
        except Exception as error:  # noqa: BLE001 - damage can raise nearly any error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder / PICKLED}: damaged, or more than named tensors ({reason})") from None
    raise UserError(f"{folder}: no weights in it; expected {WEIGHTS}, {INDEX} or {PICKLED}")


def shards(folder: Path) -> list[str]:
    """Return the weight files that an index lists; UserError for any but .safetensors beside it."""
    listed = checked(folder / INDEX, read_json(folder / INDEX), dict(weight_map=dict))["weight_map"].values()
    if bad := [file for file in listed if not re.fullmatch(r"[\w.-]+\.safetensors", str(file))]:
        raise UserError(f"{folder / INDEX}: weight_map has {bad[0]!r}, expected .safetensors files beside it")
    return sorted({*listed})


def download(name: str, cache: str | Path | None = None) -> Path:
    """Return the folder of a published model, [OWNER/]MODEL[@REVISION] (else main); download it if new."""
    if not re.fullmatch(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(@[\w.-]+)?", name) or ".." in name:
        raise UserError(f"hf:{name}: not the name of a model; names are OWNER/MODEL, or OWNER/MODEL@REVISION")
    cache = cache or os.environ.get("MINILM_CACHE") or os.path.expanduser("~/.cache/minilm")
    folder = Path(cache) / name.replace("/", "--")
    if (folder / DONE).exists():
        return folder
    server = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    model, _, revision = quote(name if "@" in name else f"{name}@main", safe="/@").partition("@")
    listing = f"{server}/api/models/{model}/revision/{revision}?blobs=true"
    with network(f"hf:{name}"), urlopen(listing) as answer:
        listed = json.load(answer)["siblings"]
        files = {f["rfilename"]: (f["size"], (f.get("lfs") or {}).get("sha256")) for f in listed}
    weights = INDEX if INDEX in files and WEIGHTS not in files else WEIGHTS
    wanted = [CONFIG, weights, *(file for file in OTHERS if file in files)]
    make_folder(folder)
    print(f"hf:{name}: downloading into {folder}", file=sys.stderr)
    for file in wanted:  # grows: the index adds its shards
        if file not in files:
            raise UserError(f"hf:{name}: {server} has no {file} of it; only safetensors can be downloaded")
        path, (size, sha256), label = folder / file, files[file], f"hf:{name} {file}"
        if not path.exists() or path.stat().st_size != size:
            url = f"{server}/{model}/resolve/{revision}/{quote(file)}"
            with network(label):  # torch gives the file its name last, if the hash is right
                torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
            if (found := path.stat().st_size) != size:  # the connection ended early
                path.unlink()
                raise UserError(f"{label}: cut off after {found:,} of {size:,} bytes; run the command again")
        wanted += shards(folder) if file == INDEX else []
    write_json(folder / DONE, {"name": name, "endpoint": server, "files": wanted})
    return folder


@contextmanager
def network(label: str):
    """Set a time limit for network requests, and turn their errors into UserErrors of one line."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    except HTTPError as error:
        hidden = "; there is no such model, or it is private" if error.code in (401, 404) else ""
        raise UserError(f"{label}: the server answers {error.code} ({error.reason}){hidden}") from None
    except (OSError, HTTPException) as error:
        raise UserError(f"{label}: the network failed ({getattr(error, 'reason', error)})") from None
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{label}: an unexpected answer ({error}); run the command again") from None
    finally:
        socket.setdefaulttimeout(before)
