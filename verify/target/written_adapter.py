"""The file that adapts a function to the arguments of the contract, written from its signature."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attention_gate.verify.target.source import Source

#: What every call passes, by keyword, after query, key and value.
PASSED = ("segment_lengths", "dilation_rates", "is_causal", "scale", "sequence_length", "group")

#: What every call passes before that, by position.
TENSORS = ("query", "key", "value")

#: Other names that libraries have for what is passed.
SYNONYMS = {
    "segment_lengths": ("segment_length", "segments", "seg_lens"),
    "dilation_rates": ("dilation_rate", "dilated_ratio", "dilated_ratios", "dilations", "rates"),
    "is_causal": ("causal", "use_causal", "causal_mask"),
    "scale": ("softmax_scale", "sm_scale", "scaling", "attn_scale", "qk_scale"),
    "sequence_length": ("seq_len", "seqlen", "seq_length", "total_length", "global_length"),
    "group": ("process_group", "pg", "cp_group", "sp_group", "ring_group", "dist_group", "comm_group"),
}

#: What can be had from the group.
_OF_THE_GROUP = {
    "rank": "dist.get_rank(group)",
    "local_rank": "dist.get_rank(group)",
    "world_size": "dist.get_world_size(group)",
    "num_ranks": "dist.get_world_size(group)",
}

#: Columns of what is written, so that it fits a narrow terminal, indented.
_WIDTH = 74

#: What a target declares that cannot be passed an argument.
_WITHOUT = {
    "segment_lengths": 'branches="dense"',
    "is_causal": "masks=(False,)",
    "sequence_length": "uneven=False",
    "group": "subgroups=False",
    "scale": "scales=False",
}


def adapter_file(source: Source) -> Path:
    """Where an adapter for that function goes: beside its file, or into the present folder."""
    if source.file is not None:
        return Path(source.file).with_name(f"{Path(source.file).stem}_target.py")
    return Path(f"{str(source.module).rpartition('.')[2]}_target.py")


def adapter(attend: Callable[..., Any], source: Source) -> str:
    """The text of a file whose ``target`` calls that function with as much of the contract as its signature shows.

    What it has no parameter for, the target declares as not supported. A parameter that nothing is known of is
    given as ``...``, for the user to fill in.
    """
    by_position, others = parameters_of(inspect.signature(attend))
    named = [one.name for one in (*by_position[len(TENSORS) :], *others)]
    required = {one.name for one in (*by_position[len(TENSORS) :], *others) if one.default is one.empty}
    given: dict[str, str] = {}
    taken = []
    for argument in PASSED:
        if found := next((name for name in (argument, *SYNONYMS[argument]) if name in named), None):
            given[found] = argument
            taken.append(argument)
    for name in named:
        if name not in given and name in required:
            given[name] = _OF_THE_GROUP.get(name, "...")
    if any("(group)" in value for value in given.values()) and "group" not in taken:
        taken.append("group")
    tensors = [*TENSORS]
    keywords = [one.name for one in others][: len(TENSORS)] if not by_position else []
    if len(keywords) == len(TENSORS):  # the tensors themselves by keyword alone
        tensors = [f"{name}={tensor}" for name, tensor in zip(keywords, TENSORS, strict=True)]
        given = {name: value for name, value in given.items() if name not in keywords}
    call = ", ".join([*tensors, *(f"{name}={value}" for name, value in given.items())])
    limits = [words for argument, words in _WITHOUT.items() if argument not in taken]
    distributed = ["import torch.distributed as dist", ""] if "dist." in call else []
    module = source.module or Path(str(source.file)).stem
    name, _, attribute = source.name.partition(".")
    called = f"attention.{attribute}" if attribute else "attention"
    return "\n".join(
        [
            *distributed,
            "import attention_gate",
            f"from {module} import {name} as attention",
            "",
            f"def attend(query, key, value, *, {', '.join([*taken, '**_'])}):",
            f"    return {called}({call})",
            "",
            *_declared(["attend=attend", *limits, "refusals=False"]),
            "",
        ]
    )


def parameters_of(signature: inspect.Signature) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """Those that can be given by position, and those that can be given by keyword only."""
    every = signature.parameters.values()
    by_position = [one for one in every if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return by_position, [one for one in every if one.kind is one.KEYWORD_ONLY]


def _declared(fields: list[str]) -> list[str]:
    """The lines that declare the target, each short enough to read."""
    whole = ", ".join(fields)
    line = f"target = attention_gate.Target({whole})"
    if len(line) <= _WIDTH:
        return [line]
    lines = textwrap.wrap(whole, _WIDTH - 4, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return ["target = attention_gate.Target(", *lines, ")"]
