"""From what a user types to a checkpoint file: a path, a public name, or `org/repo:file` on the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from rmeeto_bench.checkpoints.catalogue import PUBLIC, find
from rmeeto_bench.errors import CheckpointError


def resolve(name: str | Path) -> Path:
    """The file behind a path, a name of `catalogue.PUBLIC`, or `org/repo:file`.

    Hub files come from the hub client's own cache if they are there (so it works offline), else are downloaded. Raises
    `CheckpointError` saying which file to put where.
    """
    path = Path(name)
    if path.exists():
        return path
    text = str(name)
    public = find(text)
    if public is not None:
        return _download(public.repo, public.filename)
    repo, separator, filename = text.partition(":")
    if separator and repo.count("/") == 1 and filename:
        return _download(repo, filename)
    names = ", ".join(entry.name for entry in PUBLIC)
    raise CheckpointError(f"{text} is no file; give a path, one of {names}, or org/repo:file on the hub")


def _download(repo: str, filename: str) -> Path:
    try:
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    except LocalEntryNotFoundError:
        pass  # not in the cache: ask the hub
    except HFValidationError as error:
        raise CheckpointError(f"{repo} is no name of a hub repository ({error})") from error
    try:
        return Path(hf_hub_download(repo, filename))
    except (OSError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"{filename} is neither in the hub client's cache nor can it be downloaded ({type(error).__name__}); "
            f"fetch it from {repo} where there is a network and give its path"
        ) from error
