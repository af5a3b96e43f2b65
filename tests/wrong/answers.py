"""Typical wrong solutions of sampling and of regimes 4 and 6: (old text, new text, words of the sentence)."""

WRONG = {
    "temperature": [
        ("logits / self.temperature", "logits * self.temperature", "the temperature multiplies"),
        ("return logits.log_softmax(-1)", "return logits", "log_softmax is missing"),
        ("return logits.log_softmax(-1)", "return logits.softmax(-1)", "not their logarithms"),
        ("return logits.log_softmax(-1)", "return logits.log_softmax(0)", "is over the rows"),
        ("if self.temperature != 1:", "if False:", "there is no temperature"),
        ("if self.top_p is not None", "if False", "top-p is left out"),
        ("if self.top_k is not None:", "if False:", "top-k is left out"),
        ("if self.forbidden_ids:", "if False:", "forbidden tokens are not removed"),
        ("        if self.temperature == 0:", "        if False:", "greedy"),
        ("keepdim=True), 0.0)", "keepdim=True), 1.0)", "of the likeliest token must be 0"),
        ("logits = self.with_one_end(logits)", "pass", "if the likeliest token is an end"),
        ("logits.index_fill(-1, torch", "logits.index_fill_(-1, torch", "is changed in place"),
    ],
    "top-p": [
        ("(before < p)", "(before + probability < p)", "the token that crosses p"),
        ("(before < p)", "(before <= p)", "exactly p: a third one is too many"),
        ("descending=True", "descending=False", "instead of"),
        ("(before < p)", "(probability >= p)", "if its own probability is p or more"),
        ("(before < p)", "(before < 1 - p)", "p is the share that is left out"),
        (
            "logits.masked_fill(logits < ranked.gather(-1, n_kept - 1), NEVER)",
            "logits.softmax(-1).masked_fill(logits < ranked.gather(-1, n_kept - 1), NEVER)",
            "kept logits must not change",
        ),
    ],
    "lora": [
        (" * self.scale", "", "the factor alpha / r is missing"),
        ("return plain + ", "return ", "W x is left out"),
        ("F.linear(x, self.weight, self.bias)", "F.linear(x, self.weight)", "the bias is left out"),
        ("F.linear(x, self.lora_a)", "F.linear(x, self.lora_a.detach())", "both must learn"),
        (
            "return plain + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale",
            "return (plain + F.linear(F.linear(x, self.lora_a), self.lora_b)) * self.scale",
            "at the start",
        ),
        (" + F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale", "", "B A x is left out"),
    ],
    "best-span": [
        (".tril(longest - 1)", ".tril(longest)", "one token too long"),
        (".tril(longest - 1)", "", "as long as the text"),
        (".triu()", "", "end before it begins"),
        (".triu()", ".triu(1)", "of one token is not allowed"),
        (".tril(longest - 1)", ".tril(longest - 2)", "one token too short"),
        ("begin, end = log_probs", "end, begin = log_probs", "are swapped"),
        (".masked_fill(fits == 0, -math.inf)", "", "chosen independently"),
    ],
    "span-windows": [
        (
            (
                "if inside and start <= inside[0] and inside[-1] < start + room:\n"
                "                    label = [n_before + inside[0] - start, n_before + inside[-1] - start]"
            ),
            (
                "if here := [t for t in inside if start <= t < start + room]:\n"
                "                    label = [n_before + here[0] - start, n_before + here[-1] - start]"
            ),
            "has a label though only a part",
        ),
        ("step = max(1, room // 2)", "step = room", "is in no window as a whole"),
        ("[n_before + inside[0] - start, n_before + inside", "[inside[0] - start, inside", "are not counted"),
        (
            "[n_before + inside[0] - start, n_before + inside[-1] - start]",
            "[n_before + inside[0], n_before + inside[-1]]",
            "those in the text, not in the window",
        ),
        ("len(ids) - room + step", "len(ids) - room", "the last window ends before the text"),
        (" - n_before - 1", " - n_before", "24"),
        ("[: self.context // 2]", "", "half a row at most"),
        ("letters[part]", "letters", "only those of the window"),
        ("inside[-1] - start]", "inside[-1] + 1 - start]", "the one after the answer"),
    ],
    "entities": [
        ('mark in "BSO"', 'mark in "SO"', "B- does not begin a new entity"),
        (" or last_type != type_", "", "a new type begins no"),
        ('last in "ES" or ', "", "E- and S- do not end"),
        ('if mark != "O" and (start is None or ends):', 'if mark in "BS":', "I- without B- before it"),
        ('*tags, "O")]', "*tags)]", "lasts to the end of the sentence is lost"),
        ("(start, place, last_type)", "(start, place - 1, last_type)", "the entity's last word"),
        ("MARKS.get(tag[0], tag[0])", "tag[0]", "M-, L- and U- are not replaced"),
    ],
    "answer-labels": [
        ("[IGNORED] * (len(before) - 1) + answer", "[*before[1:], *answer]", "prompt's tokens are labels"),
        ("[IGNORED] * (len(before) - 1)", "[IGNORED] * len(before)", "one place too late"),
        ("- 1) + answer for", "- 1) + [*answer[:-1], IGNORED] for", "never learn to stop"),
        ("([*before, *answer[:-1]]", "([*before, *answer]", "reads the answer's end too"),
        (
            "[IGNORED] * (len(before) - 1)",
            "([IGNORED] * (len(before) - 1) if self.is_decoder else before[1:])",
            "only tokens of the answer are labels",
        ),
        ("[self.decoder_begin] *", "[self.decoder_begin[-1:]] *", "`decoder_begin`, then the answer"),
        ("both), IGNORED)", "both), self.pad)", "padding has labels"),
        ("[IGNORED] * (len(before) - 1)", "[IGNORED] * max(0, len(before) - 2)", "one place too early"),
    ],
    "label-scores": [
        (" / torch.tensor([len(label) for label in labels])", "", "not divided by the number of tokens"),
        ("[len(label) for label in labels]", "[len(w) for w in prompt_format.words.values()]", "of letters"),
        ("scores.log_softmax(-1) - expected", "scores - expected", "p(label) is not normalised"),
        ("(free).log_softmax(-1).logsumexp", "(free).logsumexp", "p with a text of CONTENT_FREE"),
        (" - math.log(len(free))", "", "summed, not averaged"),
        ("log_softmax(-1) - expected", "log_softmax(-1) + expected", "p is multiplied"),
        (
            "torch.stack(free).log_softmax(-1).logsumexp(0) - math.log(len(free))",
            "torch.stack(free).softmax(-1).mean(0).log()",
            "float32 cannot hold",
        ),
        ("for text in CONTENT_FREE]", "for text in CONTENT_FREE[:1]]", "only the first text of CONTENT_FREE"),
    ],
    "likelihood": [
        (" + of_head", "", "only a label's last token counts"),
        (
            "log_probs[:, -1, label[-1]] + of_head",
            "(log_probs[:, -1, label[-1]] + of_head) / len(label)",
            "a mean over a label's tokens",
        ),
        (
            "log_probs[:, -1, label[-1]] + of_head",
            "(log_probs[:, -1, label[-1]] + of_head).exp()",
            "not their logarithms",
        ),
        ("log_probs[:, -1, label[-1]] + of_head", "of_head", "last token is left out"),
        ('0, "left", device)', '0, "right", device)', "log p of the labels"),
    ],
    "controls": [
        (
            "        rng.shuffle(given)",
            "        given = [y for q in apart for y in sorted((y for _, y in q.examples), reverse=True)]",
            "are they shuffled in each prompt",
        ),
        (
            "rng.choices(list(labels), k=len(given))",
            "[rng.choice([y for y in labels if y != right]) for right in given]",
            "of 120 labels are right, but",
        ),
        ("rng.choices(list(labels), k", "rng.choices(given, k", "not from all labels"),
        ("if len({q.examples for q in questions}) > 1", "if True", "the same new labels in all questions"),
        ('f"{control} labels {seed}"', "control", "every seed gives the same"),
        ("(q, examples=", "(q, label=labels[0], text='', examples=", "not the question and its label"),
        ("        rng.shuffle(given)", "        given = rng.choices(given, k=len(given))", "as before"),
        ("random.Random(f", "random.Random(None and f", "the same seed must give"),
    ],
}
