"""What has to be said before anything imports torch, in the tests and in the processes that they start."""

import os

# Many tests fork, and a forked process waits forever for the OpenMP threads that it left in its parent.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton interprets its kernels
