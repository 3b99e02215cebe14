"""Whose token it is and what it may do, as the Hub itself says. Asking changes nothing there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from appliance.hub.connection import connect

WRITERS = frozenset({"contributor", "write", "admin"})


@dataclass(frozen=True)
class Who:
    """A token's user and reach. `time` is the Hub's clock in Unix seconds, None when it told none."""

    name: str
    role: str
    organisations: Mapping[str, str]
    writes_to: frozenset[str]
    """The namespaces it may write to: of a fine-grained token those it names, of any other all of its user's."""
    writes_everywhere: bool
    time: float | None
    endpoint: str


def who_is(token: str, *, answer_seconds: float) -> Who:
    """Ask the Hub. Raises what the library raises; see `faults.explain`."""
    api = connect(token, answer_seconds=answer_seconds, tries=1)
    response = get_session().get(f"{api.endpoint}/api/whoami-v2", headers=build_hf_headers(token=token))
    hf_raise_for_status(response)
    return read_who(response.json(), endpoint=str(api.endpoint), date=response.headers.get("Date"))


def is_there(*, answer_seconds: float) -> str:
    """Ask the Hub for something public, without a token. Its address when it answers; raises as `who_is` does."""
    api = connect("", answer_seconds=answer_seconds, tries=1)
    get_session().get(f"{api.endpoint}/api/models", params={"limit": 1})
    return str(api.endpoint)


def read_who(answer: Mapping[str, Any], *, endpoint: str, date: str | None = None) -> Who:
    """The answer of whoami as what matters here."""
    name = str(answer.get("name"))
    organisations = {str(org.get("name")): str(org.get("roleInOrg")) for org in answer.get("orgs") or ()}
    token = (answer.get("auth") or {}).get("accessToken") or {}
    role = str(token.get("role"))
    fine = token.get("fineGrained") or {}
    scoped = frozenset(_written(fine.get("scoped") or ()))
    all_of_user = frozenset({name, *(org for org, own in organisations.items() if own in WRITERS)})
    return Who(
        name=name,
        role=role,
        organisations=organisations,
        writes_to={"write": all_of_user, "fineGrained": scoped}.get(role, frozenset()),
        writes_everywhere=role == "write" or any("write" in str(right) for right in fine.get("global") or ()),
        time=_time(date),
        endpoint=endpoint,
    )


def _written(scopes: Any) -> Iterator[str]:  # noqa: ANN401
    for scope in scopes:
        if "repo.write" in (scope.get("permissions") or ()):
            # A scope for one repository is named `org/name`.
            yield str((scope.get("entity") or {}).get("name"))


def _time(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return None
