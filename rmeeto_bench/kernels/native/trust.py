"""Which files may be loaded as code: only those that no other user could have written."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path


def _private_group(gid: int) -> bool:
    """Whether this group belongs to the user alone; Debian and Fedora give each user such a group."""
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _writable_by_others(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _private_group(status.st_gid)


def distrust(path: Path, owners: Collection[int] = ()) -> str | None:
    """Why a file or folder must not be trusted: another user owns it or a folder above it, or others may write there.

    Root and this user are trusted, and `owners`. A folder above that others may write is fine if it is sticky, as /tmp is.
    """
    trusted = {0, os.getuid(), *owners}
    path = path.absolute()
    for at in (path, *path.parents):
        status = at.lstat()
        if stat.S_ISLNK(status.st_mode):
            if at == path:
                return f"{at} is a link"
            status = at.stat()
        if status.st_uid not in trusted:
            return f"{at} belongs to another user (uid {status.st_uid})"
        sticky = at != path and bool(status.st_mode & stat.S_ISVTX)
        if _writable_by_others(status) and not sticky:
            return f"others may write {at}; run: chmod go-w {at}"
    return None
