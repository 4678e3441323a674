"""Find the checkpoint file that a user names: a path, a public name, or `org/repo:file` on the hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.error import URLError

from rmeeto_bench.checkpoints.catalogue import PublicCheckpoint, find
from rmeeto_bench.checkpoints.reader import sha256
from rmeeto_bench.errors import CheckpointError

BLOB = re.compile(r"[0-9a-f]{64}")  # the hub client names a large file in its cache by its sha256


def resolve(name: str | Path) -> Path:
    """The file behind a path, a name of `catalogue.PUBLIC`, or `org/repo:file`.

    Hub files come from the hub client's own cache if they are there (so it works offline), else are downloaded. Raises
    `CheckpointError` saying which file to put where.
    """
    path = Path(name)
    if path.exists() or path.is_symlink():  # a dead link is named as what it is
        return path
    text = str(name)
    public = find(text)
    if public is not None:
        return fetch(public)
    repo, separator, filename = text.partition(":")
    if separator and repo.count("/") == 1 and filename:
        found = cached(repo, filename) or _download(repo, filename)
        if found is None:
            raise CheckpointError(
                f"{filename} is neither in the hub client's cache nor can it be downloaded; "
                f"fetch it from {repo} where there is a network and give its path"
            )
        return found
    raise CheckpointError(
        f"there is no file or folder {text}; give a path, a name that `rmeeto-bench models` lists, or org/repo:file on the hub"
    )


def cached(repo: str, filename: str) -> Path | None:
    """The file in the hub client's cache (or torch's, for a plain download), if it is there; never asks the network."""
    if repo.startswith("https://"):
        path = _torch_cache() / Path(filename).name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    except (LocalEntryNotFoundError, EntryNotFoundError):
        return None
    except HFValidationError as error:
        raise CheckpointError(f"{repo} is no name of a hub repository ({error})") from error


def cached_public(entry: PublicCheckpoint) -> Path | None:
    """The file of a public checkpoint, if it is on this machine."""
    return next((path for name in entry.filenames if (path := cached(entry.repo, name)) is not None), None)


def known_sha256(entry: PublicCheckpoint, path: Path | None) -> str | None:
    """The digest that is known without reading the file: the catalogue's, or the hub cache's name for it."""
    blob = path.resolve().name if path is not None else ""
    return blob if BLOB.fullmatch(blob) else entry.sha256


def fetch(entry: PublicCheckpoint) -> Path:
    """The file of a public checkpoint, downloaded if it is not on this machine, its digest checked where one is known.

    Raises `CheckpointError` saying which file to put where.
    """
    path = cached_public(entry)
    for filename in entry.filenames if path is None else ():
        path = path or _download(entry.repo, filename)
    if path is None:
        raise CheckpointError(missing(entry))
    if entry.sha256 is not None and not sha256(path).startswith(entry.sha256):
        raise CheckpointError(
            f"{path} is not the published {entry.filename} (its sha256 differs); remove it and fetch it again"
        )
    return path


def missing(entry: PublicCheckpoint) -> str:
    """What to fetch from where and where to put it, in one line."""
    place = f"{entry.model}_r{entry.r}.pth"
    if entry.repo.startswith("https://"):
        return (
            f"{entry.name} is not on this machine and cannot be downloaded; fetch {entry.address} where there is a "
            f"network and put it into {_torch_cache()}, or into a folder as {place} and give --checkpoints FOLDER"
        )
    from huggingface_hub import constants

    also = "".join(f" (or {name})" for name in entry.filenames[1:])
    # A file in a folder is read without its averaged weights, so the hub's cache is the only place for those.
    folder = "" if entry.ema else f", or put the file into a folder as {place} and give --checkpoints FOLDER"
    return (
        f"{entry.name} is not in the hub client's cache ({constants.HF_HUB_CACHE}) and cannot be downloaded; run "
        f"`hf download {entry.repo} {entry.filename}`{also} where there is a network and copy that cache here{folder}"
    )


def _torch_cache() -> Path:
    import torch  # seconds, and few files lie there

    return Path(torch.hub.get_dir()) / "checkpoints"


def _download(repo: str, filename: str) -> Path | None:
    """Fetch a file into the client's cache, or None where it cannot be had."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # two lines for each of its tries would hide our own
    try:
        if not repo.startswith("https://"):
            return Path(hf_hub_download(repo, filename))
        if constants.HF_HUB_OFFLINE:
            return None
        import torch

        path = _torch_cache() / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(f"{repo}/{filename}", str(path), progress=False)
        return path
    except (OSError, URLError, HfHubHTTPError, EntryNotFoundError):
        return None
