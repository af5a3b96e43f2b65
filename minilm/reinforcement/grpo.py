"""Group relative policy optimisation: PPO in which answers to one prompt are compared with each other.

Source: Shao et al. 2024, "DeepSeekMath", section 4.1. PPO's value head guesses what reward an answer will
get; GRPO draws a group of answers to the same prompt and takes their mean. The rest is `ppo.py`.

Differs from the paper: the KL is a price in each token's reward, as in PPO, not a term of the loss (equation
3, estimated by equation 4). As in "Dr. GRPO" (Liu et al. 2025, "Understanding R1-Zero-Like Training", section
3) no group's deviation divides its advantages. The loss is a mean over all tokens, not over each answer first
(DAPO: Yu et al. 2025); a step's advantages are whitened together, as PPO's are (`--no-whiten-advantages`).
"""

from torch import Tensor


def group_advantages(rewards: Tensor, mask: Tensor, group_size: int) -> Tensor:
    """Return the advantage of each token (B, n): what its answer earned less the mean of its group.

    A_i,t = R_i - mean(R_1 ... R_G): the G answers to a prompt are neighbours among the B rows; R is the sum
    of the rewards (B, n) of an answer's tokens.
    """
    earned = rewards.sum(1).view(-1, group_size)  # (B / G, G)
    # Shao et al. 2024, section 4.1.2, divide by the group's deviation. Liu et al. 2025, section 3.1: that
    # gives the most weight to prompts whose answers are nearly all good, or nearly all bad.
    return (earned - earned.mean(1, keepdim=True)).view(-1, 1) * mask
