"""A model that writes at the terminal: a text for one prompt, or a loop of prompts.

A decoder goes on with the prompt; an encoder-decoder reads it and writes its own text, from [CLS] to [SEP].
"""

import codecs
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..model.generate import check_decoder, sample
from ..model.sampling import SamplingRule
from ..plumbing.errors import UserError, as_line
from ..tokenizer.rows import TURN_END, chat_ids, decoder_begin, prompt_ids, text_end

show = partial(print, end="", flush=True)  # prints a piece of text at once, without a line break
LEAVE = "Ctrl-D leaves" if os.name == "posix" else "Ctrl-Z and Enter leave"
HELP = f"Type the beginning of a text. Arrow keys bring back earlier ones, Ctrl-C stops an answer, {LEAVE}."


class Writer:
    """A model with its tokenizer and a rule for writing (`SamplingRule`); UserError for an encoder."""

    def __init__(self, model, tokenizer, max_new_tokens=50, temperature=None, n_beam=1, chat=False, **how):
        check_decoder(model)
        if chat and TURN_END not in tokenizer.special_tokens:
            raise UserError(f"--chat: the model is not made for chat (no token {TURN_END}); leave --chat out")
        self.turns: list[tuple[str, str]] | None = [] if chat else None  # role and text
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.n_beam = max_new_tokens, n_beam
        end = tokenizer.special_id("[SEP]") if model.encoder else text_end(tokenizer)
        end = tokenizer.special_id(TURN_END) if chat else end
        temperature = (1.0 if n_beam > 1 else 0.8) if temperature is None else temperature
        never = tokenizer.never_written(model.config.vocab_size, end)
        self.rule = SamplingRule(never, temperature, eos_id=end, other_ends=tokenizer.ends, **how)

    def write(self, prompt: str, seed: int = 0, show: Callable[[str], None] = lambda piece: None) -> str:
        """Return what the model writes; `show` gets it piece by piece. UserError if a prompt is too long."""
        tokenizer, model = self.tokenizer, self.model
        pieces = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be spread over tokens

        def watch(token) -> None:
            show(pieces.decode(tokenizer.decode_bytes(i for i in token.tolist() if i != self.rule.eos_id)))

        how = dict(decoder_start_id=decoder_begin(tokenizer) if model.encoder else None, watch=watch)
        turns = None if self.turns is None else [*self.turns, ("user", prompt)]
        ids = chat_ids(tokenizer, turns) if turns else prompt_ids(tokenizer, model.config, prompt)
        written = sample(model, [ids], self.max_new_tokens, self.rule, seed, self.n_beam, **how)
        ids = written.ids[0, written.n_prompt :].tolist()
        text = tokenizer.decode([i for i in ids if i != self.rule.eos_id])
        if turns:
            self.turns = [*turns, ("assistant", text)]
        if self.n_beam > 1:  # beam search knows its text only at the end
            show(text)
        return text


def loop(writer: Writer, seed: int = 0) -> None:
    """Ask for prompts and answer each, until Ctrl-D; print the reason if a prompt does not fit."""
    with suppress(ImportError):  # on Windows
        import readline  # noqa: F401 - input() then edits its line and recalls earlier ones
    getattr(sys.stdin, "reconfigure", dict)(errors="replace")  # for bytes that its encoding lacks
    print(HELP if writer.turns is None else HELP.replace("the beginning of a text", "what you want to say"))
    while True:
        try:
            prompt = input("\n> ")
        except KeyboardInterrupt:  # drops the line being typed, as a shell does
            prompt = ""
            print()
        except EOFError:
            return print()
        if not prompt.strip():
            continue
        try:
            writer.write(prompt, seed, show)
        except KeyboardInterrupt:
            show(" ...")
        except UserError as error:
            print(as_line(f"error: {error}"), file=sys.stderr)
        print()
        seed += 1  # another draw for each answer
