"""A run as one archive. Unpacking takes only the two files that make a run, whatever else is in it."""

from __future__ import annotations

import io
import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmeeto_bench.bench.store.untrusted import private_copy
from rmeeto_bench.errors import DataError, UsageError
from rmeeto_bench.records.run import DATABASE, LARGEST_MANIFEST, MANIFEST, RunRecord, load

ENDINGS = (".tar", ".tar.gz", ".tgz")
LARGEST_ARCHIVE = 1 << 30  # bytes on the disk
LIMITS = {MANIFEST: LARGEST_MANIFEST, DATABASE: 2 << 30}  # bytes of each file, unpacked
MOST_MEMBERS = 1000


def pack(folder: Path) -> bytes:
    """Manifest and raw data of a run as a .tar.gz; a run in progress may be packed too. Raises `DataError` without a run."""
    try:
        files = {MANIFEST: (folder / MANIFEST).read_bytes()}
    except OSError as error:
        raise DataError(f"{folder} holds no {MANIFEST}; give the folder of a run") from error
    if (folder / DATABASE).is_file():
        with private_copy(folder) as copy:
            files[DATABASE] = copy.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=3) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"run/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, path: Path) -> None:
    limit, copied = LIMITS[target.name], 0
    content = archive.extractfile(member)
    if content is None:
        raise DataError(f"{path}: {member.name!r:.80} cannot be read; pack the run's folder again")
    with target.open("xb") as file:
        while piece := content.read(1 << 20):
            copied += len(piece)
            if copied > limit:
                raise DataError(f"{path}: {target.name} is larger than any run's; it is not unpacked")
            file.write(piece)


def unpack(path: Path, folder: Path) -> Path:
    """Unpack the run in a tar file into `folder`, and return that.

    Only plain files named `manifest.json` and `run.sqlite`, once each and all in one place, are taken, and written under
    those names: no path of the archive is ever used. Raises `DataError` for links, doubles, more than a run, or damage.
    """
    if path.stat().st_size > LARGEST_ARCHIVE:
        raise DataError(f"{path} is larger than any packed run; it is not unpacked")
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for count, member in enumerate(archive):
                place, _, name = member.name.rpartition("/")
                if count > MOST_MEMBERS or (name not in LIMITS and member.size > LIMITS[DATABASE]):
                    raise DataError(f"{path} holds more than a run; pack the run's folder alone")
                if name not in LIMITS:
                    continue
                if not member.isreg():
                    raise DataError(f"{path}: {member.name!r:.80} is a link or a device, not a file; it is not unpacked")
                if name in places or (places and place not in places.values()):
                    raise DataError(f"{path} holds several runs; pack one run per file")
                places[name] = place
                _copy(archive, member, folder / name, path)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
        raise DataError(f"{path} is no tar file or a damaged one ({reason}); give one that contribute wrote") from error
    if MANIFEST not in places:
        raise DataError(f"{path} holds no {MANIFEST}; pack the folder of a run")
    return folder


@contextmanager
def run_at(path: Path) -> Iterator[tuple[Path, RunRecord]]:
    """The folder and the record of a run, given as its folder, its manifest or its archive, which is unpacked for the while.

    Raises `DataError`.
    """
    if not _is_packed(path):
        yield path if path.is_dir() else path.parent, load(path)
        return
    with tempfile.TemporaryDirectory(prefix="rmeeto-bench-") as scratch:
        folder = unpack(path, Path(scratch))
        try:
            yield folder, load(folder)
        except DataError as error:  # names the unpacked copy, which is gone when this is read
            raise DataError(str(error).replace(str(folder), str(path))) from error


def _is_packed(path: Path) -> bool:
    return path.name.endswith(ENDINGS) and not path.is_dir() and path.exists()


def drawn_at(path: Path) -> Path:
    """Where what is drawn of a run goes if nobody says: its folder, or one of its name beside its archive.

    Raises `UsageError` where a run lies there: it may be another one.
    """
    if not _is_packed(path):
        return path if path.is_dir() else path.parent
    ending = next(ending for ending in ENDINGS if path.name.endswith(ending))
    folder = path.with_name(path.name.removesuffix(ending) or "run")
    if (folder / MANIFEST).exists():
        raise UsageError(f"{folder} holds a run; say with --out where to draw {path}")
    return folder
