"""Typical wrong solutions of regime 5's exercises: NAME -> (old text, new text, words of the sentence)."""

WRONG = {
    "bradley-terry": [
        ("rewards[:, 0] - rewards[:, 1]", "rewards[:, 1] - rewards[:, 0]", "the margin is rejected - chosen"),
        ("loss=-F.logsigmoid(margin)", "loss=F.logsigmoid(margin)", "sign of the logarithm"),
        ("value.sum() / n", "value.sum()", "a sum over the pairs"),
        ("-F.logsigmoid(margin)", "-margin.sigmoid()", "the logarithm is missing"),
        ("-F.logsigmoid(margin)", "-margin", "the sigmoid is missing"),
        ("-F.logsigmoid(margin)", "-F.logsigmoid(chosen)", "only the reward of the chosen answer"),
        ("accuracy=margin > 0", "accuracy=margin < 0", "whose rejected answer has the higher reward"),
        ("accuracy=margin > 0", "accuracy=margin >= 0", "a tie does not count"),
        ('return metrics["loss"], ', "return -F.logsigmoid(margin).mean(), ", "n_pair of the whole batch"),
        ("model.eval()", "model", "without dropout"),
        ("F.logsigmoid(margin)", "margin.sigmoid().log()", "has no logarithm"),
        ('return metrics["loss"], ', 'return metrics["loss"].detach(), ', "no gradient reaches the rewards"),
    ],
    "token-rewards": [
        (
            "rollout.log_probs - rollout.reference_log_probs",
            "rollout.reference_log_probs - rollout.log_probs",
            "the KL has the wrong sign",
        ),
        (" - kl_coefficient * kl", " - kl", "`kl_coefficient` is missing"),
        ("rollout.lengths[:, None] - 1", "mask.shape[1] - 1", "the score is in the last column"),
        ("rollout.lengths[:, None] - 1", "rollout.lengths[:, None]", "one place after the last token"),
        (
            "share = last if details.reward_at_end else mask",
            "share = mask if details.reward_at_end else mask",
            "each token gets the whole score",
        ),
        ("        kl = kl.sum(1, keepdim=True) * last", "        pass", "`kl_per_token` is ignored"),
        (
            "torch.where(rollout.ended, scores, details.missing_end_score)",
            "torch.where(rollout.ended, details.missing_end_score, scores)",
            "the answer with an end gets it",
        ),
        (" / rollout.lengths[:, None].clamp(min=1)", "", "each token gets the whole score"),
    ],
    "gae": [
        ("result = torch.zeros_like(rewards)", "result = rewards", "argument 1 is changed in place"),
        ("gamma * gae_lambda * next_advantage", "gamma * next_advantage", "lambda is missing"),
        ("gamma * next_value", "next_value", "V of the next token is not multiplied by gamma"),
        (
            "gamma * gae_lambda * next_advantage",
            "gae_lambda * next_advantage",
            "gamma is missing beside lambda",
        ),
        (" - values[:, t]", "", "V of the token itself is not subtracted"),
        (" + gamma * next_value", "", "V of the next token is missing"),
        ("reversed(range(rewards.shape[1]))", "range(rewards.shape[1])", "the loop goes forwards"),
        ("    values = values * mask\n", "", "V must be 0 after the end"),
        (") * mask[:, t]", ")", "A must be 0 in the padding"),
        ("(delta + gamma * gae_lambda * next_advantage)", "delta", "no advantage of a later token"),
        ("    return result", "    return result + values", "gives the return"),
    ],
    "whitening": [
        ("mean = masked_mean(x, mask)", "mean = x.mean()", "padding is counted in the mean"),
        (
            (
                "    mean = masked_mean(x, mask)\n"
                "    deviation = (masked_mean((x - mean) ** 2, mask) + 1e-8).sqrt()"
            ),
            "    mean, deviation = x.mean(), x.std(correction=0)",
            "padding is counted",
        ),
        (".sqrt()", "", "divided by the variance"),
        (" / deviation", "", "not divided by the standard deviation"),
        ("(0.0 if shift_mean else mean)", "0.0", "the mean is not added again"),
        ("(0.0 if shift_mean else mean)", "mean", "although `shift_mean` is True"),
        (" * mask\n", "\n", "padding does not stay 0"),
    ],
    "clipped-loss": [
        ("-masked_mean(gain, mask)", "masked_mean(gain, mask)", "the sign is wrong"),
        ("torch.minimum(ratio", "torch.maximum(ratio", "the larger of the two products"),
        ("ratio.clamp(1 - e, 1 + e) * batch", "ratio * batch", "the ratio is not clipped"),
        ('log_probs - batch["log_probs"]', 'batch["log_probs"] - log_probs', "the ratio is old / new"),
        ("-masked_mean(gain, mask)", "-gain.mean()", "padding counts in the mean"),
        ("-masked_mean(gain, mask)", "-(gain * mask).sum()", "a sum over the tokens"),
        ("torch.maximum((values", "torch.minimum((values", "the smaller of the two errors"),
        (".clamp(-bound, bound)", "", "the value is not clipped"),
        ("0.5 * masked_mean", "masked_mean", "the factor 1/2 is missing"),
        ("details.value_weight * value_loss", "value_loss", "`value_weight` is missing"),
        ("policy_loss + details.value_weight * value_loss", "policy_loss", "the value loss is left out"),
        ("log_ratio.exp()", "log_ratio.exp().detach()", "no gradient reaches its log-probabilities"),
        ("    bound = details", "    values = values.detach()\n    bound = details", "reaches the values"),
    ],
    "grpo": [
        ("return (earned", "rewards -= 1\n    return (earned", "argument 1 is changed in place"),
        (
            "return (earned - earned.mean(1, keepdim=True))",
            "return ((earned - earned.mean(1, keepdim=True)) / earned.std(1, keepdim=True))",
            "divided by the standard deviation of the group",
        ),
        ("earned.mean(1, keepdim=True)", "earned.mean()", "that of all answers"),
        (
            "earned - earned.mean(1, keepdim=True)",
            "earned.mean(1, keepdim=True) - earned",
            "the sign is wrong",
        ),
        ("earned - earned.mean(1, keepdim=True)", "earned", "the mean of the group is not subtracted"),
        (" * mask\n", ".expand(mask.shape)\n", "padding gets the advantage too"),
        (
            "(earned - earned.mean(1, keepdim=True)).view(-1, 1)",
            "(rewards - earned.mean(1, keepdim=True).repeat_interleave(group_size, 0))",
            "its own reward",
        ),
    ],
    "dpo-answers": [
        (">= batch", "> batch", "the answer's first token is left out"),
        ("arange(1, ids.shape[1]", "arange(ids.shape[1] - 1", "the answer's first token is left out"),
        (
            '>= batch["n_prompt"].repeat_interleave(2)[:, None]',
            '>= batch["n_prompt"].repeat_interleave(2)[:, None] - 1',
            "the prompt's last token",
        ),
        ("(log_probs * in_answer).sum(1)", "log_probs.sum(1)", "the whole prompt is counted"),
        (
            "(log_probs * in_answer).sum(1)",
            "((log_probs * in_answer).sum(1) / (in_answer * mask[:, 1:]).sum(1))",
            "a mean over the tokens",
        ),
    ],
    "dpo": [
        ("self.beta * (answer", "(answer", "beta is missing"),
        (" - before)", ")", "the reference is missing"),
        (
            "(answer_log_probabilities(model, batch) - before)",
            "(before - answer_log_probabilities(model, batch))",
            "the sign is wrong",
        ),
        (
            "self.beta * (answer_log_probabilities(model, batch) - before)",
            "self.beta * answer_log_probabilities(model, batch) - before",
            "only log pi is multiplied by beta",
        ),
    ],
}
