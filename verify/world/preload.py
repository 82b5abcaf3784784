"""Imported once by the fork server: what every worker needs, so that a worker starts in milliseconds."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # more threads than cores make everything several times slower

import numpy as np  # noqa: F401
import torch

# The first call inside torch.utils.checkpoint imports this: more than a second that every worker would spend again.
import torch._dynamo
import torch.distributed

# The first backward pass of a custom autograd.Function imports this: a second that every worker would spend again.
import torch.fx.experimental.symbolic_shapes

import attention_gate.verify.rank.worker  # noqa: F401

torch.set_num_threads(1)
