"""Group relative policy optimisation: PPO in which answers to one prompt are compared with each other.

Source: Shao et al. 2024, "DeepSeekMath", section 4.1. PPO's value head predicts the reward of an answer;
GRPO draws a group of answers to the same prompt and takes their mean reward. The rest is `ppo.py`.

Differs from the paper: the KL is a penalty in each token's reward, as in PPO, not a term of the loss
(equation 3, estimated by 4). As in "Dr. GRPO" (Liu et al. 2025, "Understanding R1-Zero-Like Training",
section 3), no advantage is divided by its group's deviation. The loss is a mean over all tokens, not over
each answer first (DAPO: Yu et al. 2025). All advantages of a step are whitened together, as in PPO.
"""

from torch import Tensor


def group_advantages(rewards: Tensor, mask: Tensor, group_size: int) -> Tensor:
    """Return the advantage of each token (B, n): the reward of its answer minus the mean of its group.

    A_i,t = R_i - mean(R_1 ... R_G), and 0 at padding. R_i is the sum of the rewards (B, n) of the tokens of
    answer i; the G = `group_size` answers to one prompt are neighbours among the B rows.
    """
    earned = rewards.sum(1).view(-1, group_size)  # (B / G, G)
    # Shao et al. 2024, section 4.1.2, also divide by the deviation of the group. But that gives most weight
    # to prompts whose answers are nearly all good or nearly all bad (Liu et al. 2025, section 3.1).
    return (earned - earned.mean(1, keepdim=True)).view(-1, 1) * mask
