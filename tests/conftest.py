"""What every test starts from: the same random numbers, whichever tests ran before it, and one thread."""

import pytest
import torch

torch.set_num_threads(
    1
)  # tests are tiny: threads that wait for each other on a busy machine cost five times more


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
