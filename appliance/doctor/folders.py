"""Folders, disks and secrets: can the appliance read and write what it must."""

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance import surroundings
from appliance.disk import existing, reserve_bytes, space_of
from appliance.doctor.finding import Finding, ok, problem, warning
from appliance.doctor.unwritable import what_mends
from appliance.errors import InputError
from appliance.models import cache_folder
from appliance.recipe_yaml import parse_recipe
from appliance.settings import PREFIX, SECRETS, Settings
from appliance.texts.wording import plural, size

# File systems of other machines, by their names in /proc/self/mountinfo.
_REMOTE: Final = frozenset({"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre", "nfs", "nfs4", "smb3"})
_MOUNTS: Final = Path("/proc/self/mountinfo")


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Every folder that is written to takes a file and lets go of it; the inbox also of other people's."""
    for name in ("inbox", "outbox", "state", "models"):
        folder: Path = getattr(settings, name)
        yield _writable(name, folder) if name != "models" else _models(folder)
    yield from _sticky(settings.inbox)
    yield from _remote_state(settings.state)


def check_recipes(settings: Settings) -> Iterator[Finding]:
    """The library has a default recipe, and every recipe in it can be read."""
    paths = sorted(settings.recipes.glob("*.yaml"))
    advice = surroundings.on_host("git checkout -- recipes") if surroundings.in_container() else "see recipes/ in git"
    broken = []
    for path in paths:
        try:
            parse_recipe(path.read_bytes(), name=path.name)
        except (InputError, OSError) as error:
            broken.append(path.name)
            yield warning("recipes", f"the library recipe {path.name} cannot be used: {error}", f"mend it, or {advice}")
    if settings.recipes / "default.yaml" not in paths:
        message = f"{settings.recipes.resolve()} has no default.yaml: a dataset dropped alone cannot be trained"
        yield problem("recipes", message, f"put one there ({advice}), or set APPLIANCE_RECIPES")
    elif not broken:
        yield ok("recipes", f"{plural(len(paths), 'library recipe')}, all of them sound", {"recipes": len(paths)})


def check_disks(settings: Settings) -> Iterator[Finding]:
    """Every volume keeps more than its reserve free."""
    folders = {name: getattr(settings, name) for name in ("inbox", "outbox", "state", "models")}
    folders["model cache"] = cache_folder(settings)
    volumes: dict[int, list[str]] = defaultdict(list)
    for name, folder in folders.items():
        with contextlib.suppress(OSError):
            volumes[existing(folder).stat().st_dev].append(name)
    for names in volumes.values():
        with contextlib.suppress(OSError):
            yield _free(names, existing(folders[names[0]]), settings)


def check_secrets(settings: Settings) -> Iterator[Finding]:
    """Secrets that could not be read are an error of the settings; here is what else is amiss with them."""
    for name in SECRETS:
        if os.environ.get(PREFIX + name):
            message = f"{PREFIX}{name} stands in the environment, which every process of this user can read"
            yield warning(
                "secrets", message, f"put it into a file and name that: {PREFIX}{name}_FILE=secrets/{name.lower()}"
            )
    missing = [name for name in ("api_token", "read_token") if getattr(settings, name) is None]
    beyond_loopback = not settings.listen.startswith(("127.", "localhost:", "[::1]:"))
    if "api_token" in missing:
        message = "no API token is configured: pages and programs can look, but not act"
        yield warning("secrets", message, _make_secret("API_TOKEN"))
    if "read_token" in missing and beyond_loopback:
        message = f"no read token is configured: on {settings.listen} the pages answer nobody"
        yield warning("secrets", message, _make_secret("READ_TOKEN"))
    if not missing or (missing == ["read_token"] and not beyond_loopback):
        yield ok("secrets", "the tokens of this port could be read")


def _make_secret(name: str) -> str:
    return surroundings.on_host(f"make secrets, then APPLIANCE_{name}_FILE=secrets/{name.lower()}")


def _writable(name: str, folder: Path) -> Finding:
    error = _try_to_write(folder)
    if error is None:
        state = "can be written" if folder.is_dir() else "can be made"
        return ok(f"folder:{name}", f"{name} {folder.resolve()} {state}")
    message = f"{name} {folder.resolve()} cannot be written by user {os.geteuid()}: {error.strerror}"
    return problem(f"folder:{name}", message, what_mends(name, folder, error), stops=True)


def _models(folder: Path) -> Finding:
    """Models may lie on a read-only volume: the appliance only reads them there."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        message = f"models {folder.resolve()} cannot be read by user {os.geteuid()}"
        return problem("folder:models", message, surroundings.give(folder, recursive=True))
    return ok("folder:models", f"models {folder.resolve()} {'can be read' if folder.is_dir() else 'is not there yet'}")


def _try_to_write(folder: Path) -> OSError | None:
    """Make a file and remove it again, where the folder is or will be made. Its dot keeps it from being a drop."""
    probe = existing(folder) / f".appliance-doctor-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return error
    return None


def _sticky(inbox: Path) -> Iterator[Finding]:
    """In a sticky folder only its owner may remove what others put there, and a drop could not be taken out."""
    try:
        status = inbox.stat()
    except OSError:
        return
    if status.st_mode & stat.S_ISVTX and os.geteuid() not in (0, status.st_uid):
        command = f"sudo chmod -t {inbox.name if surroundings.in_container() else inbox.resolve()}"
        message = "the inbox has the sticky bit and belongs to somebody else: other people's files could not be removed"
        yield problem("folder:inbox", message, surroundings.on_host(command), stops=True)


def _remote_state(state: Path) -> Iterator[Finding]:
    kind = _file_system(existing(state).resolve())
    if kind in _REMOTE:
        message = f"the state folder lies on a network file system ({kind}): the database is not safe there"
        yield problem("folder:state", message, "set APPLIANCE_STATE to a folder on a local disk", {"file_system": kind})


def _file_system(path: Path) -> str:
    """The type of the file system of the longest mount point above `path`."""
    best, kind = "", ""
    for line in _MOUNTS.read_text().splitlines():
        mount, _, rest = line.partition(" - ")
        point = mount.split()[4].encode().decode("unicode_escape")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind


def _free(names: list[str], folder: Path, settings: Settings) -> Finding:
    space, inodes = space_of(folder), os.statvfs(folder)
    reserve = reserve_bytes(settings, space)
    volume = f"the volume of {_listed(names)}"
    facts: dict[str, object] = {"free_bytes": space.free_bytes, "total_bytes": space.size_bytes, "folders": names}
    look = surroundings.on_host(f"sudo du -xh --max-depth=2 {folder} | sort -h | tail")
    if space.free_bytes < reserve:
        message = f"{volume} has {size(space.free_bytes)} free, and {size(reserve)} are kept in reserve"
        return problem("disk", message, f"make room (`{look}`), or lower APPLIANCE_DISK_RESERVE_GB", facts)
    if inodes.f_files and inodes.f_favail < inodes.f_files // 100:
        return problem("disk", f"{volume} is out of inodes", f"remove files: `{look}`", facts)
    if space.free_bytes < 2 * reserve:
        message = f"{volume} has only {size(space.free_bytes)} free; a 70B model alone is 40 GB"
        return warning("disk", message, f"make room: `{look}`", facts)
    return ok("disk", f"{size(space.free_bytes)} free on {volume}", facts)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
