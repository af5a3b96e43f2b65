"""What a script says at its end: the closing table, an error in one line, the exit code."""

import os
import sys

from .errors import UserError


def table(rows, header) -> str:
    """Return rows under their header as aligned text; columns of numbers stand at the right."""
    columns = []
    for name, *values in zip(header, *rows, strict=True):
        cells = [name, *(cell(value) for value in values)]
        numeric = all(value is None or isinstance(value, (int, float)) for value in values)
        width = max(map(len, cells))
        columns.append([text.rjust(width) if numeric else text.ljust(width) for text in cells])
    head, *body = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([head, "-" * max(map(len, [head, *body])), *body])


def cell(value) -> str:
    """Return the text of one cell of a table: 110,106,428, 0.123, and 1.0e-05 where that would show 0.000."""
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def exit_code(main) -> int:
    """Call `main()` and return the exit code: what it returns (none: 0), or that of how it ended.

    2: a UserError, in one line. 130: Ctrl-C, in one line. 141: the reader of a pipe has left (`| head`).
    Anything else is a bug and keeps its traceback.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(stop if str(stop) else "stopped by Ctrl-C: nothing was being saved", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more when it ends; without a reader that would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
