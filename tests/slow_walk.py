"""All sentences that a grammar can write, found by trying every choice."""


class Branch(Exception):
    """The walk needs a value that the path does not have yet."""


def every_walk(grammar, before):
    """Yield each (derivation, log-probability) of the sentence that follows the sentences `before`."""
    paths = [()]
    while paths:
        path = paths.pop()
        rest = iter(path)

        def pick(position, name, choice, rest=rest):
            if position < len(before):
                return before[position][name]
            for value in rest:
                return value
            raise Branch(choice.values)

        try:
            yield grammar.expand(pick, len(before) + 1)
        except Branch as branch:
            paths += [(*path, value) for value in branch.args[0]]
