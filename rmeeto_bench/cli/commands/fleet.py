"""`rmeeto-bench fleet`: the same plan on many machines, one table."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmeeto_bench.cli import output
from rmeeto_bench.cli.commands import run as run_command

if TYPE_CHECKING:
    from rmeeto_bench.fleet.engines.local import Engine
    from rmeeto_bench.fleet.host import Event

UNUSED = (
    "--gpus",
    "--resume",
    "--dry-run",
    "--schedule",
    "--workers",
    "--json",
    "--trace",
)  # of `run`: not for a fleet


def _fleet_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="?", type=Path, metavar="PLAN", help="TOML of the flags below, long names without dashes")
    fleet = parser.add_argument_group("the fleet")
    fleet.add_argument(
        "--engine", choices=("ray", "slurm", "local"), required=True, help="what carries the runs to the machines"
    )
    fleet.add_argument("--kinds", metavar="NAMES", help="kinds of GPU as `profiles` lists them, and cpu; with commas")
    fleet.add_argument(
        "--address", default="auto", metavar="A", help="of the Ray cluster: auto (default), HOST:PORT, or local to start one"
    )
    fleet.add_argument(
        "--cluster", choices=("slurm", "local"), default="slurm", help="with --engine slurm: local tries it without Slurm"
    )
    fleet.add_argument("--partition", metavar="P", help="of Slurm")
    fleet.add_argument("--account", metavar="A", help="of Slurm")
    fleet.add_argument(
        "--deadline", type=float, default=6.0, metavar="HOURS", help="hours that a run may take, waiting included (default: 6)"
    )
    fleet.add_argument(
        "--patience", type=float, default=60.0, metavar="S", help="seconds to wait for another machine of a lost one's kind"
    )
    fleet.add_argument("--tries", type=int, default=2, metavar="N", help="starts of a run whose machine was lost (default: 2)")


def _remove(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Take a flag out of a parser and out of its help."""
    for option in action.option_strings:
        del parser._option_string_actions[option]
    for group in parser._action_groups:
        if action in group._group_actions:
            group._group_actions.remove(action)
    parser._actions.remove(action)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command: the fleet's, and those of `run` that say what to measure and how."""
    _fleet_arguments(parser)
    run_command.add_arguments(parser)
    for action in [action for action in parser._actions if set(action.option_strings) & set(UNUSED)]:
        _remove(parser, action)
    for action in parser._actions:
        if action.dest == "arm":
            action.help = argparse.SUPPRESS  # refused in words
    parser.set_defaults(preset="default", gpus="all", resume=False, dry_run=False, schedule="serial", json=None, trace=False)


def _with_plan(arguments: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, dict[str, str]]]:
    """The arguments with the plan's lines read before them, so that flags win; and paths of single kinds."""
    if arguments.plan is None:
        return arguments, {}
    from rmeeto_bench.errors import DataError
    from rmeeto_bench.fleet.plan import read_plan

    words, paths = read_plan(arguments.plan)
    parser = argparse.ArgumentParser(prog=f"rmeeto-bench fleet {arguments.plan}", allow_abbrev=False, exit_on_error=False)
    add_arguments(parser)
    try:
        planned = parser.parse_args([*words, "--engine", arguments.engine])
    except argparse.ArgumentError as error:
        raise DataError(f"plan {arguments.plan}: {error}") from error
    defaults = parser.parse_args(["--engine", arguments.engine])
    for name, value in vars(arguments).items():
        if value != getattr(defaults, name) or name == "plan":
            setattr(planned, name, value)
    return planned, paths


def _engine(arguments: argparse.Namespace) -> Engine:
    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.fleet.engines.local import LocalEngine, Patience

    if arguments.tries < 1 or arguments.deadline <= 0 or arguments.patience < 0:
        raise UsageError("--tries must be at least 1, --deadline above 0 and --patience not negative")
    limits = Patience(arguments.deadline * 3600, arguments.patience, arguments.tries)
    if arguments.engine == "ray":
        from rmeeto_bench.fleet.engines.ray import RayEngine

        return RayEngine(arguments.address, limits)
    if arguments.engine == "slurm":
        from rmeeto_bench.fleet.engines.slurm import SlurmEngine

        return SlurmEngine(limits, cluster=arguments.cluster, partition=arguments.partition, account=arguments.account)
    return LocalEngine()


def _teller(names: dict[str, str]) -> Any:
    """Prints an event as one line on standard error."""
    begun = time.monotonic()

    def tell(event: Event) -> None:
        where = f" on {event.host}" if event.host else ""
        detail = f": {event.detail}" if event.detail else ""
        output.say(f"[{time.monotonic() - begun:5.0f} s] {names[event.task]} {event.state}{where}{detail}", error=True)

    return tell


def main(arguments: argparse.Namespace) -> int:
    """Run the fleet; 6 if a machine was lost, refused or lacking, 5 if nothing was measured."""
    from rmeeto_bench.cli.result import deliver
    from rmeeto_bench.errors import UsageError
    from rmeeto_bench.fleet.drive import drive
    from rmeeto_bench.fleet.plan import CPU, check_kinds, tasks

    if arguments.arm:
        raise UsageError(
            f"a fleet does not send your own code (--arm {arguments.arm[0]}) to its machines; give the same --arm to "
            "`rmeeto-bench run` on each of them, and join the runs with `rmeeto-bench merge`"
        )
    arguments, paths = _with_plan(arguments)
    if not arguments.kinds:
        raise UsageError(
            "say which kinds of GPU: --kinds a100-sxm-80,v100 (or kinds = [...] in the plan); `profiles` lists them"
        )
    if arguments.out is None:
        raise UsageError("--out DIR: the folder for the results; the same command with the same folder continues")
    out = arguments.out.resolve()  # as the machines of a shared file system know it
    kinds = check_kinds(arguments.kinds)
    simulated = arguments.device == "sim"
    arguments.model = arguments.model or ("vim_nano" if kinds == (CPU,) else "vim_small")  # whatever this machine has
    plan = run_command.plan_from(arguments)
    todo = tasks(plan, kinds, paths, simulated=simulated)
    names = {task.id: f"{task.kind} {task.model}" for task in todo}
    outcome = drive(_engine(arguments), todo, out, _teller(names))
    if outcome.record is None:
        for ending in outcome.endings.values():
            output.say(f"lost: {ending.detail}", error=True)
        return 6 if outcome.endings else 5
    deliver(outcome.record, out, None)
    for failure in outcome.record.failures:
        output.say(f"lost: {failure}", error=True)
    planned = sum(len(task.arms) for task in todo)
    output.say(f"{planned - len(outcome.missing)} of {planned} cells measured", error=True)
    if outcome.missing or outcome.record.failures:
        output.say(f"missing: {', '.join(outcome.missing) or 'none'}; run the same command again to continue", error=True)
        return 6
    return 0 if any(arm.known for arm in outcome.record.arms) else 5
