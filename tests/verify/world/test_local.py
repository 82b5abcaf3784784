"""Worlds that cannot be started say in one line what to do; the others take over the gate's surroundings."""

import os
import signal
import stat
import sys
import tempfile
import threading
import time

import pytest
import torch.distributed as dist

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.rank import memory_limits as memory
from attention_gate.verify.rank.jobs import Died, Job, Returned
from attention_gate.verify.target.layouts import contiguous
from attention_gate.verify.target.source import Source
from attention_gate.verify.world.local import LocalWorld, WorldError


def tell(query, key, value, **options):
    """Raises with what is asked about this process."""
    raise RuntimeError(f"cwd={os.getcwd()} variable={os.environ.get('ATTENTION_GATE_TEST')} path={sys.path[0]}")


def _job(size: int, name: str = "tell") -> Job:
    case = Case(world_size=size, length=size, segment_lengths=(size,))
    return Job(
        "attend",
        Source(__name__, None, name),
        (case,),
        (Positions.as_many([contiguous(r, size, size) for r in range(size)]),),
    )


def test_ranks_see_the_surroundings_that_the_gate_has_when_they_start(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTENTION_GATE_TEST", "seen")
    monkeypatch.syspath_prepend("/a/place")
    with LocalWorld(1) as world:
        reply = world.run(_job(1)).replies[0]
    assert reply.message == f"cwd={tmp_path} variable=seen path=/a/place"


def test_no_folder_needs_to_be_writable(monkeypatch, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr(tempfile, "tempdir", "/not/there")
    monkeypatch.setenv("TMPDIR", "/not/there")
    monkeypatch.chdir(tmp_path)
    with LocalWorld(2) as world:
        run = world.run(Job("load", Source(__name__, None, "tell"), (), ()))
    assert run.outcome == "returned"


def test_a_torch_without_gloo(monkeypatch):
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    with pytest.raises(WorldError, match=r"^this torch was built without gloo; install one that has it"):
        LocalWorld(2).start()


def test_more_ranks_than_the_machine_has_memory_for(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 400 << 20)
    with pytest.raises(WorldError, match=r"^a world of 8 ranks needs 805 MB of memory, .* --world-sizes up to 3$"):
        LocalWorld(8).start()


def test_a_python_that_does_not_start(monkeypatch):
    from attention_gate.verify.world import fork_client as kept

    kept.shut_down()
    monkeypatch.setattr(sys, "executable", "/not/there/python")
    with pytest.raises(WorldError, match=r"^a world of 1 gloo processes could not be started: .*/not/there/python"):
        LocalWorld(1).start()


def test_an_unknown_backend():
    with pytest.raises(WorldError, match=r"^a world of 1 pigeon processes could not be started: rank 0 raised"):
        LocalWorld(1, backend="pigeon").start()


def test_a_world_is_replaced_after_a_failure_and_kept_otherwise():
    with LocalWorld(1) as world:
        load = Job("load", Source(__name__, None, "tell"), (), ())
        assert isinstance(world.run(load).replies[0], Returned)
        assert isinstance(world.run(load).replies[0], Returned)
        assert world.starts == 1
        assert world.run(_job(1)).outcome == "crash"
        assert world.run(load).outcome == "returned"
        assert world.starts == 2


def test_closing_is_safe_at_any_time():
    world = LocalWorld(2)
    world.close()
    world.start()
    world.close()
    world.close()


def test_a_rank_that_has_ended_does_not_count_as_stuck_where_the_news_is_late():
    with LocalWorld(1) as world:
        world.start()
        (member,) = world._members
        server = world._keeper._process.pid
        os.kill(server, signal.SIGSTOP)
        late = threading.Timer(0.8, os.kill, (server, signal.SIGCONT))
        late.start()
        try:
            os.kill(member.pid, signal.SIGKILL)
            time.sleep(0.1)
            reply = member.stuck()
        finally:
            late.join()
    assert isinstance(reply, Died)
    assert "SIGKILL" in reply.how
