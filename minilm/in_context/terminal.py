"""A model that writes at the terminal: a text for one prompt, or a loop of prompts.

A decoder goes on with the prompt; an encoder-decoder reads it and writes its own text, from [CLS] to [SEP].
"""

import codecs
import sys
from collections.abc import Callable

from ..model.generate import SamplingRule, check_decoder, sample
from ..plumbing.errors import UserError
from ..tokenizer.rows import END, prompt_ids
from .scores import decoder_start

HELP = "Type the beginning of a text. Arrows recall earlier ones, Ctrl-C ends an answer, Ctrl-D leaves."


class Writer:
    """A model with its tokenizer and how it is to write.

    Raises:
        UserError: for an encoder, and for settings out of range (see `SamplingRule`).
    """

    def __init__(
        self,
        model,
        tokenizer,
        max_new_tokens: int = 50,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        n_beam: int = 1,
    ):
        check_decoder(model)
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.n_beam = max_new_tokens, n_beam
        end = tokenizer.special_id(END if model.config.kind == "decoder" else "[SEP]")
        self.special_ids = {tokenizer.special_id(token) for token in tokenizer.special_tokens}
        if temperature is None:
            temperature = 1.0 if n_beam > 1 else 0.8
        how = dict(temperature=temperature, top_k=top_k, top_p=top_p)
        self.rule = SamplingRule(forbidden_ids=tuple(sorted(self.special_ids - {end})), eos_id=end, **how)

    def write(self, prompt: str, seed: int = 0, show: Callable[[str], None] = lambda piece: None) -> str:
        """Return what the model writes for a prompt; `show` gets it piece by piece as it is written.

        Raises:
            UserError: for an empty prompt, and for one longer than the model's positions.
        """
        if not prompt.strip():
            raise UserError("the prompt is empty: give the beginning of a text")
        tokenizer, config = self.tokenizer, self.model.config
        pieces = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be spread over tokens

        def watch(token) -> None:
            written = [int(token[0])] if int(token[0]) not in self.special_ids else []
            show(pieces.decode(tokenizer.decode_bytes(written)))

        written = sample(
            self.model,
            [prompt_ids(tokenizer, config, prompt)],
            self.max_new_tokens,
            self.rule,
            seed,
            self.n_beam,
            decoder_start_id=decoder_start(tokenizer, config) or None,
            watch=watch,
        )
        ids = written.ids[0, written.n_prompt :].tolist()
        text = tokenizer.decode([i for i in ids if i not in self.special_ids])
        if self.n_beam > 1:  # a search knows its text at the end only
            show(text)
        return text

    def print(self, prompt: str, seed: int = 0) -> None:
        """Print the prompt and, as it is written, what a decoder goes on with; else the new text alone."""
        if self.model.encoder is None and prompt.strip():
            show(prompt)
        self.write(prompt, seed, show)
        print()


def show(piece: str) -> None:
    """Print a piece of a text at once, without a line's end."""
    print(piece, end="", flush=True)


def loop(writer: Writer, seed: int = 0, read=input) -> None:
    """Ask for prompts and write to each, until Ctrl-D; a prompt that does not fit gets the reason."""
    try:
        import readline  # noqa: F401 - input() then edits its line and recalls earlier ones
    except ImportError:  # Windows
        pass
    print(HELP)
    while True:
        try:
            prompt = read("\n> ")
        except KeyboardInterrupt:  # drops a line that is being typed, as a shell does
            print()
            continue
        except EOFError:
            print()
            return
        if not prompt.strip():
            continue
        try:
            writer.write(prompt, seed, show)
        except KeyboardInterrupt:
            show(" ...")
        except UserError as error:
            print("error:", error, file=sys.stderr)
        print()
        seed += 1  # each answer draws anew
