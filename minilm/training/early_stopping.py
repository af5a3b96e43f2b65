"""When it is time to stop training, and which weights were the best until then.

Source: Prechelt 1998, "Early Stopping - But When?". A model that learns from few examples soon knows them by
heart; its loss on others then rises, however long its own goes on falling.
"""

import math

import torch


class EarlyStopping:
    """Keeps the weights with the lowest validation loss, and stops where it rises (Prechelt 1998).

    After `patience` evaluations in a row without a new lowest loss it is time to stop; 0: never, and the last
    weights are kept.
    """

    def __init__(self, patience: int):
        self.patience, self.state = patience, dict(loss=math.inf, n_worse=0, model=None)

    def look(self, metrics: dict[str, float], model: torch.nn.Module) -> None:
        """Take note of an evaluation."""
        if self.patience and metrics["loss"] < self.state["loss"]:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            self.state = dict(loss=metrics["loss"], n_worse=0, model=weights)
        elif self.patience:
            self.state["n_worse"] += 1

    def is_time(self) -> bool:
        """Say whether to stop."""
        return 0 < self.patience <= self.state["n_worse"]

    def put_back(self, model: torch.nn.Module) -> None:
        """Give the model the weights that were kept, if any."""
        if self.state["model"] is not None:
            model.load_state_dict(self.state["model"])

    def finish(self, metrics: dict[str, float], model) -> None:
        """Look at the last step too, and put the best weights back."""
        self.look(metrics, model)
        self.put_back(model)
