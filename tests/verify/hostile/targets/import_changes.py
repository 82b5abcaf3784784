"""Changes what it can of the process that imports it, and leaves a thread that never ends."""

import os
import signal
import threading
import time

import torch

from attention_gate.impls.robust import attend  # noqa: F401

os.chdir("/")
torch.set_default_dtype(torch.float16)
signal.signal(signal.SIGINT, signal.SIG_IGN)
threading.Thread(target=time.sleep, args=(1000,)).start()
