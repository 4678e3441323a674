"""The command line: picks a command, runs it, and turns every failure into one line and an exit code.

Nothing heavy is imported here: `--help` must answer at once. Each command is a module with `add_arguments(parser)` and
`main(arguments) -> int`, and imports torch, pandas or matplotlib only when it runs.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from rmeeto_bench.cli import output
from rmeeto_bench.cli.interrupt import terminable
from rmeeto_bench.cpus import short_waits
from rmeeto_bench.errors import RmeetoError
from rmeeto_bench.version import __version__

COMMANDS = {
    "run": "measure speed and accuracy at every reduction ratio (the default command)",
    "eval": "measure accuracy alone, all ratios in one pass over the images",
    "retrain": "train a model with merging switched on",
    "resume": "continue a run that was cut short",
    "rerun": "measure a stored run again, by its plan",
    "ls": "list the runs in a folder",
    "show": "show a stored run, down to its rounds",
    "fleet": "measure on many machines through Ray or Slurm, one table",
    "merge": "join runs of several machines into one table",
    "contribute": "pack a stored run, checked and without names, to give it to the project",
    "push": "publish a re-trained checkpoint with a model card",
    "pull": "fetch a published checkpoint",
    "report": "draw the tables, the figure and the HTML page of a stored run again",
    "calibrate": "measure a model against itself: how small a difference this device can show",
    "ablate": "run the paper's ablations on the models, data and checkpoints that are there",
    "visualize": "draw which tokens of an image or clip were merged",
    "flops": "count operations per image under every convention in use",
    "roofline": "show the limit of a GPU for each ratio, what bounds it, and how much of it a run reached",
    "paper": "lay the paper's tables and figures beside your own runs",
    "compare": "say whether a stored run is faster, slower or the same as another, arm by arm",
    "gate": "measure two versions in turns and fail if the second is slower, larger or less accurate",
    "figure": "draw a figure of stored runs",
    "export": "write a stored run for other tools",
    "doctor": "say which kernels run here, why, and what would make it faster",
    "models": "list the models and the public checkpoints",
    "verify": "check that a checkpoint file is whole, safe and of a model",
    "profiles": "list the known GPUs",
}
EPILOGUE = """exit codes: 0 done, 2 bad input, 3 slower, 4 inconclusive, 5 nothing valid measured,
6 the machine lacks something, 130 interrupted
examples:
  rmeeto-bench                                         the best this machine allows
  rmeeto-bench --gpus all --ratios 0,0.14,...,0.54     every GPU, the paper's ratios
  rmeeto-bench --gpus none --quick --out result        two minutes on the CPU
  rmeeto-bench --device sim --gpus all                 no GPU: the whole flow on a simulator
  rmeeto-bench resume result                           continue after Ctrl-C, a crash or a full disk"""


def _parser(command: str) -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="rmeeto-bench" if command == "run" else f"rmeeto-bench {command}",
        description=f"{COMMANDS[command]}\n\ncommands:\n{listing}" if command == "run" else COMMANDS[command],
        epilog=EPILOGUE if command == "run" else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rmeeto-bench {__version__}")
    return parser


def _fail(message: str, code: int) -> int:
    line = message.replace("\n", "\\n")  # a name with a line break in it is still one line
    output.say(f"rmeeto-bench: {line}", error=True)
    return code


def _explain(error: OSError) -> int:
    if error.errno == errno.ENOSPC:
        return _fail(
            f"no space left on the disk of {error.filename or 'the output folder'}; free some, then continue with --resume", 6
        )
    where = error.filename or "a file"
    if error.errno in (errno.EFBIG, errno.EDQUOT):
        return _fail(f"{where}: {error.strerror}; raise the limit or the quota; what was measured is kept", 6)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return _fail(f"{where}: {error.strerror}; give a place that can be written with --out", 2)
    return _fail(f"{where}: {error.strerror or error}", 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    output.prepare()
    short_waits(os.environ)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with terminable():
            return _command(words)
    except RmeetoError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError as error:
        if not output.reader_is_gone():
            return _fail(f"a part of the program ended before its work was done ({error.strerror}); run the same again", 5)
        return 0
    except OSError as error:
        return _explain(error)


def _command(words: list[str]) -> int:
    """Pick the command, read its flags and run it."""
    named = bool(words) and words[0] in COMMANDS
    command = words.pop(0) if named else "run"
    if not named and words and not words[0].startswith("-"):
        return _fail(f"unknown command {words[0]!r}; the commands are {', '.join(COMMANDS)}", 2)
    module = importlib.import_module(f"rmeeto_bench.cli.commands.{command}")
    parser = _parser(command)
    module.add_arguments(parser)
    code: int = module.main(parser.parse_args(words))
    return code


if __name__ == "__main__":
    sys.exit(main())
