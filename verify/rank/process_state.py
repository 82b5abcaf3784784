"""Process state that a call can change: detected, described, and restored."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from attention_gate.verify.rank import torch_switches as switches

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGPIPE)

_WORDS = {
    "cwd": "the working directory",
    "dtype": "torch's default dtype",
    "device": "torch's default device",
    "threads": "the number of threads",
    "grad_mode": "the grad mode",
    "inference_mode": "the inference mode",
    "autocast": "autocast",
    "deterministic": "torch.use_deterministic_algorithms",
    "precision": "the precision of float32 matrix products",
    "switches": "torch's switches",
    "seed": "the seed of torch's default generator",
    "signals": "a signal handler",
    "environment": "the environment",
}


@dataclass(frozen=True)
class State:
    """The state of this process that a call must leave as it found it.

    What a library does when it is first used is let stand: variables added to the environment, entries added to
    sys.path, warning filters. Drawing random numbers does not count as a change either; seeding a generator anew does.
    """

    cwd: str
    dtype: torch.dtype
    device: torch.device
    threads: int
    grad_mode: bool
    inference_mode: bool
    autocast: tuple[bool, bool]
    deterministic: tuple[bool, bool]
    precision: str
    switches: dict[str, object]
    seed: int
    signals: tuple[Any, ...]
    environment: dict[str, str]

    @classmethod
    def now(cls) -> State:
        """The present state."""
        return cls(
            cwd=_cwd(),
            dtype=torch.get_default_dtype(),
            device=torch.get_default_device(),
            threads=torch.get_num_threads(),
            grad_mode=torch.is_grad_enabled(),
            inference_mode=torch.is_inference_mode_enabled(),
            autocast=(torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
            deterministic=(
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            precision=torch.get_float32_matmul_precision(),
            switches=switches.present(),
            seed=torch.default_generator.initial_seed(),
            signals=tuple(signal.getsignal(number) for number in _SIGNALS),
            environment=dict(os.environ),
        )

    def changes_to(self, later: State) -> list[str]:
        """In words, what is different in the later state."""
        found = []
        for name, words in _WORDS.items():
            before, after = getattr(self, name), getattr(later, name)
            if name == "environment":
                changed = [key for key, value in before.items() if after.get(key) != value]
                if changed:
                    found.append(f"the call changed the environment: {', '.join(sorted(changed)[:3])}")
            elif name == "switches":
                found += [
                    f"the call changed {switch} from {was} to {after.get(switch)}"
                    for switch, was in before.items()
                    if after.get(switch) != was
                    and not (switch in switches.PRECISION and self.precision != later.precision)
                ]
            elif name == "signals":
                changed = [
                    number.name for number, a, b in zip(_SIGNALS, before, after, strict=True) if a is not b and a != b
                ]
                if changed:
                    found.append(f"the call changed the handler of {', '.join(changed)}")
            elif before != after:
                found.append(f"the call changed {words} from {before} to {after}")
        return found

    def restore(self, later: State) -> None:
        """Put right what is different in the later state, which is the present one."""
        for field in fields(self):
            if getattr(self, field.name) != getattr(later, field.name):
                with contextlib.suppress(Exception):  # what cannot be put right shows in the next call
                    getattr(self, f"_restore_{field.name}")()

    def _restore_cwd(self) -> None:
        os.chdir(self.cwd)

    def _restore_dtype(self) -> None:
        torch.set_default_dtype(self.dtype)

    def _restore_device(self) -> None:
        torch.set_default_device(self.device if self.device.type != "cpu" else None)

    def _restore_threads(self) -> None:
        torch.set_num_threads(self.threads)

    def _restore_grad_mode(self) -> None:
        torch.set_grad_enabled(self.grad_mode)

    def _restore_autocast(self) -> None:
        for device, enabled in zip(("cpu", "cuda"), self.autocast, strict=True):
            torch.set_autocast_enabled(device, enabled)

    def _restore_deterministic(self) -> None:
        enabled, warn_only = self.deterministic
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)

    def _restore_precision(self) -> None:
        torch.set_float32_matmul_precision(self.precision)

    def _restore_switches(self) -> None:
        switches.restore(self.switches)

    def _restore_seed(self) -> None:
        torch.default_generator.manual_seed(self.seed)

    def _restore_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in zip(_SIGNALS, self.signals, strict=True):
                if signal.getsignal(number) is not handler:
                    signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _restore_environment(self) -> None:
        for key, value in self.environment.items():
            if os.environ.get(key) != value:
                os.environ[key] = value


def seed_generators(seed: int, device: torch.device) -> None:
    """Give every example the same random numbers whatever ran before it, so that a replay draws them too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""
