"""The gate in pytest: one test for each check of a target.

pytest --pyargs attention_gate --attention-target my.module:attend --attention-profile quick

Every pytest run that finds this plugin installed imports it, so that nothing heavy may be imported at its top.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import attention_gate

if TYPE_CHECKING:
    from attention_gate.verify.checks import Check
    from attention_gate.verify.checks.results import CheckResult
    from attention_gate.verify.judge.session import Session
    from attention_gate.verify.run.request import Options

#: The file whose collection yields the checks: it is found by ``--pyargs attention_gate``.
_FILE = Path(attention_gate.__file__).with_name("__main__.py")

_HOW = "pytest --pyargs attention_gate --attention-target my.module:attend"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the gate, in a group of their own."""
    group = parser.getgroup("attention-gate", "judging distributed attention (attention-gate)")
    group.addoption("--attention-target", metavar="TARGET", help="module:name or path/to/file.py:name to be judged")
    group.addoption(
        "--attention-profile", metavar="PROFILE", default="standard", help="quick, standard (default) or thorough"
    )
    group.addoption(
        "--attention-world-sizes", metavar="1,2,3,4", default="1,2,3,4", help="numbers of ranks (default: 1,2,3,4)"
    )
    group.addoption("--attention-seed", metavar="S", type=int, default=0, help="which examples are tried (default: 0)")
    group.addoption("--attention-device", metavar="DEVICE", default="cpu", help="cpu (default) or cuda")
    group.addoption(
        "--attention-patience",
        metavar="S",
        type=float,
        help="as `gate --patience`: seconds that a call may work",
    )
    group.addoption("--attention-checks", metavar="A,B", help="only these checks (as of `gate --checks`)")
    group.addoption("--attention-claims", metavar="A,B", help="additional promises to check (as of `gate --claims`)")
    group.addoption("--attention-save", metavar="DIR", help="folder for failing examples (default: none is saved)")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse, before anything is collected, what cannot be judged."""
    config = session.config
    if config.getoption("--attention-target") is not None:
        config.stash[_JUDGE] = Judge(config)
    elif config.getoption("pyargs") and any(_is_this_package(argument) for argument in config.args):
        raise pytest.UsageError(f"there is nothing to judge without --attention-target: {_HOW}")


def pytest_report_header(config: pytest.Config) -> str | None:
    """What is judged, and how."""
    target = config.getoption("--attention-target")
    if target is None:
        return None
    names = ("profile", "world-sizes", "seed", "device")
    values = (f"{name.replace('-', ' ')} {config.getoption(f'--attention-{name}')}" for name in names)
    return f"attention gate: judging {target}, {', '.join(values)}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The gate's own file yields the checks, if there is a target."""
    if parent.config.getoption("--attention-target") is None or file_path != _FILE:
        return None
    return CheckFile.from_parent(parent, path=file_path, nodeid="attention-gate")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line with the counts of the checks that were tried, wherever they ran."""
    target = config.getoption("--attention-target")
    if target is None:
        return
    outcomes: Counter[str] = Counter()
    untried: dict[str, list[str]] = {}
    examples = 0
    for report in _reports(terminalreporter.stats):
        properties = dict(report.user_properties)
        if "attention_outcome" in properties:
            outcomes[properties["attention_outcome"]] += 1
            examples += properties["attention_examples"]
            if reason := properties["attention_untried"]:
                untried.setdefault(reason, []).append(report.nodeid.rpartition("::")[2])
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "no check was tried"
    for reason, names in untried.items():
        terminalreporter.write_line(f"attention gate: not tried: {', '.join(names)}: {reason}")
    terminalreporter.write_line(f"attention gate: {target}: {counts} ({examples:,} examples)")


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """A mark of its own for a check that the target does not support, and for one that is blocked by another."""
    outcome = dict(getattr(report, "user_properties", ())).get("attention_outcome")
    if report.when == "call" and report.skipped and outcome in _MARKS:
        return "skipped", *_MARKS[outcome]
    return None


#: The letter and the word of what was not tried.
_MARKS = {"unsupported": ("-", "UNSUPPORTED"), "blocked": ("b", "BLOCKED")}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the processes of the worlds."""
    judge = session.config.stash.get(_JUDGE, None)
    if judge is not None:
        judge.close()


class Judge:
    """The target of this process and its worlds, started at the first check: each xdist worker has its own."""

    def __init__(self, config: pytest.Config) -> None:
        from attention_gate.verify.commands.command_line import in_lines, put_first
        from attention_gate.verify.commands.gate import checks, claims, world_sizes
        from attention_gate.verify.commands.judge_target import claiming
        from attention_gate.verify.run.request import Options
        from attention_gate.verify.target.loading import as_target
        from attention_gate.verify.target.source import TargetError

        wanted, claimed = (config.getoption(f"--attention-{name}") for name in ("checks", "claims"))
        try:
            self.options: Options = Options(
                profile=config.getoption("--attention-profile"),
                world_sizes=world_sizes(config.getoption("--attention-world-sizes")),
                device=config.getoption("--attention-device"),
                seed=config.getoption("--attention-seed"),
                checks=None if wanted is None else checks(wanted),
                claims=() if claimed is None else claims(claimed),
                save=config.getoption("--attention-save"),
                patience=config.getoption("--attention-patience"),
            )
            if (folder := str(config.invocation_params.dir)) not in sys.path:
                put_first(folder)
            found, self.source = as_target(config.getoption("--attention-target"))
            self.target = claiming(found, self.options)
        except (ValueError, TargetError, ArgumentTypeError) as error:
            raise pytest.UsageError(in_lines(error)) from error
        self.results: dict[str, CheckResult] = {}
        self._session: Session | None = None

    def run(self, check: Check) -> CheckResult:
        """Run one check, unless one that it builds on has failed in this process."""
        from attention_gate.verify.report.saved_run import record_in
        from attention_gate.verify.run.judging import run_check
        from attention_gate.verify.run.observer import Silent

        session = self._started()
        record = record_in(self.options.save, session)
        result = run_check(check, session, self.options, self.results, Silent(), record)
        self.results[check.name] = result
        return result

    def close(self) -> None:
        """End the worlds, the simulated ones too."""
        if self._session is not None:
            try:
                self._session.worlds.close()
            finally:
                self._session.network.close()

    def _started(self) -> Session:
        from attention_gate.verify.judge.session import Session
        from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
        from attention_gate.verify.run.judging import load_everywhere
        from attention_gate.verify.world.local import Worlds

        if self._session is None:
            device, patience = self.options.device, self.options.patience
            worlds = Worlds(device=device, patience=patience)
            network = SimulatedWorlds(device=device, patience=patience)
            self._session = Session(self.target, self.source, worlds, self.options.world_sizes, network=network)
            load_everywhere(self._session)
        return self._session


_JUDGE = pytest.StashKey[Judge]()


class CheckFile(pytest.File):
    """All checks, in their order."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each check."""
        from attention_gate.verify.checks import CHECKS

        wanted = self.config.stash[_JUDGE].options.checks
        for check in CHECKS:
            if wanted is not None and check.name not in wanted:
                continue
            yield CheckItem.from_parent(self, name=check.name, check=check)


class CheckItem(pytest.Item):
    """One check of the target as a test."""

    def __init__(self, *, check: Check, **others: Any) -> None:
        super().__init__(**others)
        self.check = check

    def runtest(self) -> None:
        """Run the check; skip with the reason where it was not tried, fail with its report."""
        from attention_gate.verify.target.source import TargetError

        judge = self.config.stash[_JUDGE]
        try:
            result = judge.run(self.check)
        except TargetError as error:  # it does not load in a rank, or one of its functions fails
            pytest.fail(str(error), pytrace=False)
        untried = f"{result.outcome}: {result.reason}" if result.outcome in _MARKS else ""
        self.user_properties += [("attention_outcome", result.outcome), ("attention_examples", result.examples)]
        self.user_properties.append(("attention_untried", untried))
        if untried:
            pytest.skip(untried)
        if result.outcome == "known":
            pytest.xfail(f"known failure: {result.reason}")
        if result.outcome == "stale":
            pytest.fail(f"stale entry of known_failures: {result.reason}", pytrace=False)
        if result.failure is not None:
            raise CheckFailed(result, dense=judge.target.branches == "dense")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report of the check, without the harness's own frames; any other exception as pytest shows it."""
        if isinstance(excinfo.value, CheckFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the test is, as its heading shows it."""
        return self.path, None, f"{self.name}: the target {self.check.promise}"


class CheckFailed(Exception):
    """A check's failure; its text is the bug report."""

    def __init__(self, result: CheckResult, *, dense: bool = False) -> None:
        from attention_gate.verify.report.text import failure_text

        assert result.failure is not None
        super().__init__(failure_text(result, result.failure, dense=dense))


def _reports(stats: dict[str, list[Any]]) -> Iterator[Any]:
    """The reports of the calls themselves: a test that is skipped has one for its set-up too."""
    for reports in stats.values():
        yield from (report for report in reports if getattr(report, "when", None) == "call")


def _is_this_package(argument: str) -> bool:
    """Whether pytest made that argument from the name of this package."""
    return Path(argument.partition("::")[0]) in (_FILE.parent, _FILE) or argument.partition(".")[0] == "attention_gate"
