"""Every regime on a GPU that is pretended: no tensor stays behind on the CPU, no training step waits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reliability.runs import COMMANDS, ENVIRONMENT, ROOT, SIZES

pytestmark = pytest.mark.reliability

FEW = "--steps 4 --eval-every 2 --log-every 100"
TASK = f"finetune.py --model encoder --n-examples 12 --batch-size 5 --no-compare --seeds 1 {FEW}"
PROMPT = "prompt.py --model decoder --prompt Ana --max-new-tokens 4"
SHOTS = "prompt.py --model decoder --data table.tsv --n-test 4"
MORE = {
    "few-shot": f"train.py --objective causal --data world:few-shot {SIZES} --n-decoder-layer 1 {FEW}",
    "roberta": f"train.py --no-next-sentence --whole-word --data texts.txt --context 32 {SIZES} {FEW}",
    "llama": f"train.py --objective causal --model llama-tiny --data texts.txt --vocab-size 300 {FEW}",
    "muon": f"{COMMANDS['causal']} --optimizer muon {FEW}",
    "going on": "train.py --out causal --resume --steps 6",
    "pair": f"{TASK} --task pair",
    "similarity": f"{TASK} --task similarity",
    "contrastive": f"{TASK} --task contrastive",
    "tagging": f"{TASK} --task tagging",
    "span": f"{TASK} --task span",
    "writing": f"{TASK} --task text-to-text --model decoder",
    "writing behind an encoder": f"{TASK} --task text-to-text --model denoising",
    "vectors": "extract.py --model encoder --data table.tsv --layer all --no-probe",
    "vectors of tokens": "extract.py --model decoder --data texts.txt --tokens",
    "shots": f"{SHOTS} --n-draw 1 --shots 0,2 --score calibrated",
    "nearest shots": f"{SHOTS} --select nearest --shots 2",
    "drawing": f"{PROMPT} --top-k 9 --top-p 0.9",
    "beams": f"{PROMPT} --n-beam 3",
    "translating": f"{PROMPT} --model translation --n-beam 2",
}


def shortened(name: str, command: str) -> str:
    """Return a command with few steps, whose run has its name."""
    command = command.replace(" --device cpu", "")
    if not command.startswith("prompt.py --model decoder --prompt") and "--out" not in command:
        command += f" --out {name}"
    if command.startswith("reinforce.py"):
        command += " --reward-steps 2"
        more = dict(ppo=" --steps 1 --dpo-steps 2", dpo=" --dpo-steps 2")
        more |= dict(grpo=" --steps 1 --rounds 1 --no-contrast")
        return command.replace(" --dpo-steps 8", "") + more.get(name, "")
    return command + f" {FEW}" * ("--steps 24" in command)


def test_no_tensor_is_left_on_the_cpu_and_no_step_waits(home):
    commands = [shortened(name.replace(" ", "-"), command) for name, command in (COMMANDS | MORE).items()]
    call = [sys.executable, str(ROOT / "tests" / "pretended_gpu.py"), *commands]
    how = dict(env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=900)
    done = subprocess.run(call, cwd=home, check=False, **how)
    print(done.stdout, done.stderr)  # shown where it fails
    found = json.loads(Path("gpu.json").read_text(encoding="utf-8"))
    assert [*found] == commands
    assert [command for command, one in found.items() if one["code"] != 0] == []
    assert [command for command, one in found.items() if not one["n_tensor"]] == [], "on the CPU alone"
    # a decoder's answers are counted, and an encoder-decoder's: see the line
    known = re.compile("aten.index.* by a mask.* in (.*text_to_text.py: answer_states|a backward pass)")
    for command, one in found.items():
        if "text-to-text" in command:
            assert len(one["waits"]) == 2, "nothing would be noticed"
            assert all(map(known.fullmatch, one["waits"])), one["waits"]
        else:
            assert not one["waits"], command
