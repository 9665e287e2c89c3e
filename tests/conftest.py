"""Settings and small models shared by the tests."""

import torch

torch.set_num_threads(1)
