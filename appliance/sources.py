"""A file to check: what the person calls it, where it lies, and its bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from appliance.errors import InputError, Problem, Reason


@dataclass(frozen=True)
class Source:
    """A file to check: what the person calls it, where it lies, and its hash where that is known already."""

    name: str
    path: Path
    sha256: str | None = None

    def chunks(self, size: int = 2**20) -> Iterator[bytes]:
        """The bytes of the file. Raises InputError when they cannot be had; other OSErrors are our own disk's."""
        try:
            if not S_ISREG(self.path.stat().st_mode):
                raise InputError([self._unreadable("it is no ordinary file")])
            with self.path.open("rb") as file:
                while chunk := file.read(size):
                    yield chunk
        except FileNotFoundError as error:
            raise InputError([self._problem("there is no such file", "no such file")]) from error
        except OSError as error:
            raise InputError([self._unreadable((error.strerror or str(error)).lower())]) from error

    def _unreadable(self, why: str) -> Problem:
        return self._problem(f"the file cannot be read ({why}); make it readable and try again", why)

    def _problem(self, message: str, why: str) -> Problem:
        return Problem("unreadable_file", message, Reason.OTHER, file=self.name, found=why, expected="a readable file")
