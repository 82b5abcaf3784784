"""Every hostile target and what the gate has to say of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hostile:
    """A target, the expected outcome ("pass", "fail", "crash", "hang" or "cannot"), and what must be said.

    ``words`` may be several texts, separated by "…". "cannot": it is no target, which is reported in one line.
    ``check`` is the check that tells, ``sizes`` are the worlds.
    """

    target: str
    outcome: str
    words: str = ""
    check: str = "forward"
    sizes: tuple[int, ...] = (1, 2)

    def __str__(self) -> str:
        return self.target


TWO = (2, 3)

TABLE = (
    Hostile("ends.py:exits", "crash", "rank 0 ended its process with exit status 0…on my way out"),
    Hostile("ends.py:exits_politely", "crash", "raised SystemExit: 0"),
    Hostile("ends.py:is_killed", "crash", "was killed by SIGKILL"),
    Hostile("ends.py:reads_address_zero", "crash", "was killed by SIGSEGV…in reads_address_zero"),
    Hostile("ends.py:aborts", "crash", "was killed by SIGABRT"),
    Hostile("ends.py:last_rank_exits", "crash", "rank 1 ended its process with exit status 3", sizes=TWO),
    Hostile("ends.py:exits_and_leaves_a_child", "crash", "ended its process with exit status 4"),
    Hostile("ends.py:closes_all_descriptors", "crash", "rank 0"),  # gloo may be the first to fall
    Hostile("ends.py:closes_its_channel", "crash", "closed the file descriptors of its process"),
    Hostile("ends.py:writes_to_all_descriptors", "crash", "wrote its own data to the file descriptor", sizes=(1,)),
    Hostile("ends.py:kills_its_parent", "crash", "rank 0"),
    Hostile("ends.py:destroys_the_process_group", "crash", "destroyed or replaced the default process group"),
    Hostile("hangs.py:loops", "hang", "in loops", sizes=(1,)),
    Hostile("hangs.py:loops_in_c", "hang", "in loops_in_c", sizes=(1,)),
    Hostile("hangs.py:sleeps", "hang", "rank 0 did not finish", sizes=(1,)),
    Hostile("hangs.py:polls", "hang", "in polls", sizes=(1,)),
    Hostile("hangs.py:stops_itself", "hang", "did not finish", sizes=(1,)),
    Hostile("hangs.py:waits_for_a_lock", "hang", "in waits_for_a_lock", sizes=(1,)),
    Hostile("hangs.py:last_rank_waits_for_nobody", "hang", "in last_rank_waits_for_nobody", sizes=TWO),
    Hostile("raises.py:an_error", "crash", "raised RuntimeError: a plain error"),
    Hostile("raises.py:a_base_exception", "crash", "raised _Base: not even an Exception"),
    Hostile("raises.py:keyboard_interrupt", "crash", "raised KeyboardInterrupt"),
    Hostile("raises.py:what_cannot_be_pickled", "crash", "raised _Unpicklable: holds a lock"),
    Hostile("raises.py:what_has_no_text", "crash", "no message: str() of the exception raised"),
    Hostile("raises.py:an_endless_text", "crash", "long long"),
    Hostile("raises.py:unprintable_text", "crash", "half a character"),
    Hostile("raises.py:a_strange_text", "crash", "raised _Strange: a strange text"),
    Hostile("returns.py:nothing", "fail", "is None, expected tensor"),
    Hostile("returns.py:numpy_array", "fail", "is a ndarray, expected tensor"),
    Hostile("returns.py:a_tuple", "fail", "is a tuple, expected tensor"),
    Hostile("returns.py:another_shape", "fail", "is tensor (1, "),
    Hostile("returns.py:another_dtype", "fail", "float32 cpu, expected"),
    Hostile("returns.py:another_device", "fail", "float64 meta, expected"),
    Hostile("returns.py:a_sparse_tensor", "fail", "torch.sparse_coo tensor"),
    Hostile("returns.py:a_huge_tensor", "fail", "(1099511627776,)"),
    Hostile("returns.py:nan", "fail", "got nan"),
    Hostile("returns.py:its_input", "fail", "is wrong"),
    Hostile("returns.py:a_view_of_its_input", "fail", "the result shares memory with an input", check="purity"),
    Hostile("returns.py:what_has_no_repr", "fail", "is a _Mute"),
    Hostile("returns.py:strides_of_its_own", "pass"),
    Hostile("changes.py:folder", "fail", "the call changed the working directory", check="purity"),
    Hostile("changes.py:environment", "fail", "the call changed the environment: PATH", check="purity"),
    Hostile("changes.py:default_dtype", "fail", "torch's default dtype from torch.float32", check="purity"),
    Hostile("changes.py:seeds", "fail", "the seed of torch's default generator", check="purity"),
    Hostile("changes.py:threads", "fail", "the number of threads from 1 to 3", check="purity"),
    Hostile("changes.py:grad_mode", "fail", "the grad mode from True to False", check="purity"),
    Hostile("changes.py:signal_handlers", "fail", "the handler of SIGTERM, SIGUSR1", check="purity"),
    Hostile("changes.py:inference_mode", "pass"),
    Hostile("changes.py:folder", "pass"),
    Hostile("changes.py:groups", "pass", sizes=TWO),
    Hostile("leaves.py:output", "pass", sizes=(1,)),
    Hostile("leaves.py:closed_output", "pass"),
    Hostile("leaves.py:output_that_is_closed", "crash", "raised OSError: [Errno 9] Bad file descriptor"),
    Hostile("leaves.py:threads", "pass"),
    Hostile("leaves.py:children", "pass", sizes=(1,)),
    Hostile("leaves.py:daemons", "pass", sizes=(1,)),
    Hostile("leaves.py:memory", "pass", "ranks were replaced", sizes=(1,)),
    Hostile("takes.py:all_memory", "crash", "out of memory: this machine has", sizes=(1,)),
    Hostile("takes.py:all_memory_of_python", "crash", "out of memory: this machine has", sizes=(1,)),
    Hostile("takes.py:too_much_at_once", "crash", "out of memory: this machine has", sizes=(1,)),
    Hostile("remembers.py:right_once", "fail", "in fresh processes it fails after 1 call that came before (2 of 2)"),
    Hostile("remembers.py:wrong_once", "fail", "in fresh processes only the first call failed (1 of 2)"),
    Hostile(
        "remembers.py:wrong_from_the_fourth_call_on",
        "fail",
        "in fresh processes it fails after 3 calls that came before (2 of 2)",
        sizes=(1,),
    ),
    Hostile("remembers.py:right_when_alone", "fail", "is wrong in"),
    Hostile("not_there.py:attend", "cannot", "not_there.py does not exist"),
    Hostile("not_callable.py:attend", "cannot", "is int, neither callable nor an attention_gate.Target"),
    Hostile("ends.py:exit", "cannot", "did you mean 'exits'?"),
    Hostile("import_exits.py:attend", "cannot", "importing it failed: rank 0 ended its process with exit status 0"),
    Hostile("import_exits_politely.py:attend", "cannot", "importing it failed: SystemExit: 0"),
    Hostile("import_raises.py:attend", "cannot", "importing it failed: RuntimeError: no import today"),
    Hostile("import_raises_on_one_rank.py:attend", "cannot", "by the gate, but not in a rank: rank 1 raised"),
    Hostile("import_hangs.py:attend", "cannot", "importing it failed: rank 0 did not finish"),
    Hostile("import_takes_long.py:attend", "pass", sizes=(1,)),
    Hostile("import_takes_long.py:exits", "crash", "exit status 5", sizes=(1,)),
)
