"""A world of processes whose transport is the simulated network, and its runs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from attention_gate.verify.network.livelock import most_operations
from attention_gate.verify.network.network import Network, Schedule
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.rank.channel import readable
from attention_gate.verify.rank.jobs import Died, Raised, Reply, Returned, Run, Stuck
from attention_gate.verify.rank.network_messages import Signal, Stop, Wake
from attention_gate.verify.rank.simulated_backend import NAME
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.local import LocalWorld, Worlds
from attention_gate.verify.world.patience import Activity, Limits
from attention_gate.verify.world.rank_process import RankProcess

_POLL_SECONDS = 0.1
_STOP_SECONDS = 3.0

#: A run in which there is always something to do is looked at as often.
_LOOK_SECONDS = 0.5

#: A world of more ranks is large: its processes are many.
_LARGE = 8


@dataclass(frozen=True)
class Simulation:
    """A run on the simulated network: the ranks' replies, the record, and what the network found wrong, if anything."""

    run: Run
    trace: Trace
    finding: Finding | None


class SimulatedWorld(LocalWorld):
    """Processes for the ranks 0 … size-1, joined by the simulated network in place of a real transport.

    The options "model" and "choices" of a job are its schedule. What the run produced beyond the replies is in
    ``simulation``. The processes outlive a deadlock: the network ends the calls that hang in it.
    """

    accepted = (*LocalWorld.accepted, Signal)

    def __init__(self, size: int, *, device: str = "cpu", patience: float | None = None) -> None:
        super().__init__(size, device=device, backend=NAME, patience=patience)
        self.simulation: Simulation | None = None

    def collect(self) -> Run:
        """The run of the job that was submitted last: the network carries its messages from here."""
        assert self._job is not None
        job, self._job = self._job, None
        if (early := self._early) is not None:  # the target could not be imported anew in a world that was replaced
            self.close()
            self.simulation = Simulation(early, Network(self.size, Schedule("rendezvous", ())).trace, finding_of(early))
            return early
        schedule = Schedule(job.options.get("model", "rendezvous"), tuple(job.options.get("choices", ())))
        network = Network(self.size, schedule, most_operations(job.cases))
        start = time.monotonic()
        try:
            replies, sound, limit = self._carry(network, self._limits_of(job))
        except BaseException:
            self.close()
            raise
        run = Run(tuple(replies[rank] for rank in range(self.size)), time.monotonic() - start, limit)
        first, self._first = self._first, False
        if limit:
            self.pace.gave_up(first=first)
        if not sound:
            self.close()
        elif network.finding is None:
            self.pace.saw(run.seconds, first=first)
        self.simulation = Simulation(run, network.trace, network.finding or finding_of(run))
        return run

    def _carry(self, network: Network, limits: Limits) -> tuple[dict[int, Reply], bool, str]:
        """Let the ranks run and the network decide until all have answered.

        Returns also whether their processes are sound, and the limit that ended the run, in words, if one did.
        """
        replies: dict[int, Reply] = {}
        stopped: set[int] = set()
        stopped_at = 0.0
        activity, looked, limit = Activity(), time.monotonic(), ""
        while len(replies) < self.size:
            pending = [member for member in self._members if member.rank not in replies]
            ready = readable([end for member in pending for end in member.ends], _POLL_SECONDS)
            for member in pending:
                if any(end in ready for end in member.ends):
                    self._hear(member, network, replies)
            if ready and network.quiet:
                for rank, answer in network.step():
                    self._answer(rank, answer)
                    if rank in network.trace.stopped:
                        stopped.add(rank)
                        stopped_at = time.monotonic()
            now = time.monotonic()
            if not ready or now - looked > _LOOK_SECONDS:
                looked = now
                activity.look(member.pid for member in pending)
                if stopped and now - stopped_at > _STOP_SECONDS:
                    break
                if limit := limits.passed(activity):
                    network.run_out(limit)
                    break
        for member in self._members:
            if member.rank not in replies:
                replies[member.rank] = member.stuck()
        sound = not any(
            isinstance(reply, Died | Stuck) or (isinstance(reply, Returned) and reply.spoiled)
            for reply in replies.values()
        )
        for rank in stopped:
            if isinstance(replies[rank], Raised):  # the network stopped it: not its mistake
                replies[rank] = Stuck(f"  {network.where(rank)}", "")
        return replies, sound, limit

    def _hear(self, member: RankProcess, network: Network, replies: dict[int, Reply]) -> None:
        """Take in all that a rank has sent."""
        while member.rank not in replies and (message := member.reply()) is not None:
            if isinstance(message, Signal):
                network.take(member.rank, message)
            else:
                replies[member.rank] = message
                network.gone(member.rank, failed=isinstance(message, Raised | Died))

    def _answer(self, rank: int, answer: Wake | Stop) -> None:
        with contextlib.suppress(OSError):  # a process that is gone shows when its reply is awaited
            self._members[rank].jobs.send(answer, seconds=_STOP_SECONDS)


class SimulatedWorlds(Worlds):
    """Simulated worlds by size, each started when it is first needed; of the large ones the last is kept.

    Their ranks compute on the CPU, or share the GPUs that there are. ``latest`` is what the last run on any of them
    amounted to.
    """

    #: The checks that judge on a simulated network.
    checks = ("schedules", "streams", "wire", "traffic", "overlap", "memory")

    latest: Simulation | None = None

    def __getitem__(self, size: int) -> SimulatedWorld:
        if size not in self._worlds:
            for other in [other for other in self._worlds if min(size, other) > _LARGE]:
                self._worlds.pop(other).close()
            self._worlds[size] = SimulatedWorld(size, device=self.device, patience=self.patience)
        world = self._worlds[size]
        assert isinstance(world, SimulatedWorld)
        return world

    def beyond(self, largest: int) -> tuple[int, ...]:
        """The sizes of the worlds that were started though they are larger than that."""
        return tuple(sorted(size for size in self._worlds if size > largest))


class NoSimulatedWorlds(SimulatedWorlds):
    """In place of simulated worlds where nobody would close them. RuntimeError for each that is asked for."""

    def __getitem__(self, size: int) -> SimulatedWorld:
        raise RuntimeError("this session was made without a simulated network: give it one, and close it")
