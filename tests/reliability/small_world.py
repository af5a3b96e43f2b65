"""Runs a script, named by the first word, with a smaller world than its flags can ask for."""

import runpy
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the script has its own
from minilm.reinforcement import preferences
from minilm.texts import corpus

preferences.HELD_OUT_PAIRS, preferences.TRAIN_PROMPTS, preferences.TEST_PROMPTS = 12, 15, 7
corpus.WORLD_TRAIN, corpus.WORLD_VALIDATION = 120, 30
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
