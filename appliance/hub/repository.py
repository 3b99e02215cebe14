"""One repository on the Hub: what it is, whether it is private and ours, and what may be done to it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from appliance.hub.parcel import ParcelFile
from appliance.pushing import PushError, PushResult

MAIN: Final = "main"
MARKER: Final = "appliance.json"
# The Hub puts this one into every repository itself.
OF_THE_HUB: Final = frozenset({".gitattributes"})
HEADER_BYTES: Final = 65_536


@dataclass(frozen=True)
class Seen:
    """A repository as one look at it found it."""

    private: bool
    commit: str
    names: frozenset[str]


class Repository:
    """A model repository, by name, through one connection. Every method is one step that can be repeated."""

    def __init__(self, api: HfApi, name: str) -> None:
        self.api, self.name = api, name

    def look(self, revision: str = MAIN) -> Seen | None:
        """What is there now, or None. Each look reads anew whether the repository is private."""
        try:
            info = self.api.model_info(self.name, revision=revision)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:
                raise
            return None
        if str(info.id).casefold() != self.name.casefold():
            raise PushError(
                PushResult.CONFLICT,
                f"the repository {self.name} was moved to {info.id}",
                hint="Nothing was sent. Move it back, or let the recipe name another hub.repo.",
                blocked=True,
            )
        # Anything but a plain true, a missing answer too, counts as public.
        names = frozenset(sibling.rfilename for sibling in info.siblings or ())
        return Seen(info.private is True, str(info.sha), names)

    def refuse_personal_namespace(self) -> None:
        """Raise PushError unless the namespace is an organisation of the token's user."""
        namespace = self.name.partition("/")[0]
        who = self.api.whoami()
        organisations = [str(org.get("name")) for org in who.get("orgs") or ()]
        if namespace.casefold() in (name.casefold() for name in organisations):
            return
        listed = ", ".join(sorted(organisations)) or "none"
        what = "a person's own namespace" if namespace == who.get("name") else "no organisation of this token's user"
        raise PushError(
            PushResult.AUTH,
            f"{namespace} is {what}",
            hint=f"Set APPLIANCE_HUB_ORG to an organisation that the token may write to; it is in: {listed}.",
            blocked=True,
        )

    def create(self, *, private: bool) -> None:
        """Create it. Never `exist_ok`: that would leave a public repository public, without a word."""
        try:
            self.api.create_repo(self.name, private=private, exist_ok=False)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            # It is there all the same, by a repeated request or by somebody else's: the next look tells.

    def marker(self, seen: Seen) -> dict[str, Any]:
        """What stands in the marker that we put into every repository; nothing when there is none of ours."""
        if MARKER not in seen.names:
            return {}
        url = hf_hub_url(self.name, MARKER, revision=seen.commit, endpoint=self.api.endpoint)
        response = get_session().get(url, headers=build_hf_headers(token=self.api.token))
        hf_raise_for_status(response)
        try:
            found = json.loads(response.content[:HEADER_BYTES])
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def files(self, commit: str) -> dict[str, tuple[str | None, str]]:
        """The files of a commit: SHA-256 of those in large storage, and git's hash."""
        entries = self.api.list_repo_tree(self.name, recursive=True, revision=commit)
        found = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {entry.path: (entry.lfs.sha256 if entry.lfs else None, entry.blob_id) for entry in found}

    def holds(self, commit: str, parcel: Iterable[ParcelFile]) -> bool:
        """Whether a commit is exactly the parcel, besides what the Hub itself put there."""
        there = {name: hashes for name, hashes in self.files(commit).items() if name not in OF_THE_HUB}
        ours = {file.name: file for file in parcel}
        return there.keys() == ours.keys() and all(_same(there[name], ours[name]) for name in ours)

    def upload(self, additions: list[CommitOperationAdd], *, branch: str) -> None:
        """Send the large files. Nothing refers to them yet: without a commit they cannot be seen."""
        # An empty ignore list: one that lies in the repository must not keep a file of ours out.
        self.api.preupload_lfs_files(
            self.name, additions, revision=branch, free_memory=False, gitignore_content="", num_threads=2
        )

    def commit(
        self, additions: list[CommitOperationAdd], gone: Iterable[str], *, branch: str, parent: str, message: str
    ) -> None:
        """One commit with everything, on top of `parent` and of nothing else."""
        deletions = [CommitOperationDelete(name, is_folder=False) for name in sorted(gone)]
        self.api.create_commit(
            self.name,
            [*additions, *deletions],
            commit_message=message,
            revision=branch,
            parent_commit=parent,
            num_threads=2,
        )

    def start_branch(self, branch: str) -> None:
        self.api.create_branch(self.name, branch=branch, exist_ok=True)

    def delete(self) -> None:
        """Delete it, with everything that was ever in it."""
        self.api.delete_repo(self.name, missing_ok=True)

    def forget(self, reference: str) -> None:
        """Remove the tag and the branch of that name, where they are."""
        refs = self.api.list_repo_refs(self.name)
        if any(tag.name == reference for tag in refs.tags):
            self.api.delete_tag(self.name, tag=reference)
        if any(branch.name == reference for branch in refs.branches):
            self.api.delete_branch(self.name, branch=reference)

    def tags(self) -> dict[str, str]:
        return {tag.name: tag.target_commit for tag in self.api.list_repo_refs(self.name).tags}

    def tag(self, tag: str, commit: str) -> None:
        self.api.create_tag(self.name, tag=tag, revision=commit, exist_ok=True)


def additions_of(parcel: Iterable[ParcelFile]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(file.name, file.path) for file in parcel]


def _same(there: tuple[str | None, str], ours: ParcelFile) -> bool:
    sha256, git_oid = there
    return sha256 == ours.sha256 if sha256 else git_oid == ours.git_oid
