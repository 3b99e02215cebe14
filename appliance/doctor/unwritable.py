"""What mends a folder that cannot be written. What is advised changes that folder, never one above it."""

import errno
import os
from pathlib import Path
from typing import Final

from appliance import surroundings
from appliance.disk import existing
from appliance.names import SENTINEL
from appliance.settings import PREFIX
from appliance.store import DATABASE

# What lies in a folder that an appliance worked in: all that is in such a one may be made ours.
_MARKS: Final = {"inbox": SENTINEL, "outbox": "STATUS.md", "state": DATABASE}


def what_mends(name: str, folder: Path, error: OSError) -> str:
    """What a person types, or else does, after `error` was met where the folder is or will be made."""
    there, me = existing(folder), os.geteuid()
    match error.errno:
        case errno.EROFS:
            return surroundings.on_host(f"mount the volume of {folder} writable; `findmnt -T {there}` names it")
        case errno.ENOSPC | errno.EDQUOT:
            return surroundings.on_host(f"make room: `sudo du -xh --max-depth=2 {there} | sort -h | tail`")
        case errno.EACCES if not os.access(there, os.X_OK, effective_ids=True) and there != folder.resolve():
            enter = f"let user {me} enter {there}, for example with `sudo setfacl -m u:{me}:x {there}`"
            return surroundings.on_host(f"{enter}, or {_elsewhere(name)}")
        case errno.EACCES:
            return _make(name, folder) if there != folder.resolve() else _let_us_write(name, there)
        case errno.EPERM:
            look = f"`lsattr -d {there}` shows whether it is immutable, and then `sudo chattr -i {there}` mends it"
            return surroundings.on_host(f"{look}; or {_elsewhere(name)}")
        case _:
            return f"{_elsewhere(name)}; `findmnt -T {there}` shows what this one lies on"


def _make(name: str, folder: Path) -> str:
    if surroundings.in_container():
        # Only what compose.yaml mounts is there, and it is always there.
        variable = name.upper()
        return surroundings.on_host(f"remove {PREFIX}{variable} from .env; {variable} there names a folder of the host")
    return f"sudo install -d -o {os.geteuid()} -g {os.getegid()} {folder.resolve()}"


def _let_us_write(name: str, folder: Path) -> str:
    if folder.stat().st_uid == os.geteuid():
        return surroundings.on_host(f"chmod u+rwx {folder.name if surroundings.in_container() else folder}")
    return surroundings.give(folder, recursive=_is_ours(name, folder))


def _is_ours(name: str, folder: Path) -> bool:
    try:
        return name in _MARKS and (folder / _MARKS[name]).exists()
    except PermissionError:
        return False


def _elsewhere(name: str) -> str:
    return f"choose another folder with {PREFIX}{name.upper()}"
