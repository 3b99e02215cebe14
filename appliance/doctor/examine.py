"""All checks, in the order in which a person would mend things."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from appliance.doctor import earlyoom, folders, gpu, machine, nesting
from appliance.doctor.finding import Finding, Level, problem
from appliance.errors import ApplianceError
from appliance.settings import Settings

logger = logging.getLogger(__name__)


class NotHealthyError(ApplianceError):
    """This machine is not ready."""

    exit_code = 3


Check = Callable[[Settings], Iterable[Finding]]


def _check_hub(settings: Settings) -> Iterable[Finding]:
    # Imported only here: the start examines this machine too, and stays without the Hub's library.
    from appliance.doctor.hub import check_hub

    return check_hub(settings)


# Quick, and without network: these run at every start as well.
LOCAL: Final[tuple[Check, ...]] = (
    folders.check_folders,
    nesting.check_nesting,
    folders.check_recipes,
    folders.check_secrets,
    gpu.check_gpu,
    machine.check_memory,
    earlyoom.check_earlyoom,
    folders.check_disks,
    machine.check_versions,
    machine.check_isolation,
    machine.check_host,
)
# These ask others over the network; `appliance doctor` alone runs them, never the start.
ONLINE: Final[tuple[Check, ...]] = (_check_hub,)


def examine(settings: Settings, *, online: bool) -> list[Finding]:
    """Run every check. None keeps another from being run."""
    checks = (*LOCAL, *ONLINE) if online else LOCAL
    return [finding for check in checks for finding in _run(check, settings)]


def examine_at_start(settings: Settings) -> None:
    """Log what is amiss, each with what mends it. Raises NotHealthyError where the appliance could not work at all."""
    findings = examine(settings, online=False)
    for finding in findings:
        if finding.level is not Level.OK:
            level = logging.ERROR if finding.level is Level.PROBLEM else logging.WARNING
            mend = f". To mend it: {finding.remedy}" if finding.remedy else ""
            logger.log(level, "%s: %s%s", finding.check, finding.message, mend)
    amiss = sum(finding.level is not Level.OK for finding in findings)
    logger.info("%d of %d checks of this machine passed", len(findings) - amiss, len(findings))
    stops = [finding for finding in findings if finding.stops]
    if stops:
        remedies = dict.fromkeys(finding.remedy for finding in stops if finding.remedy)
        raise NotHealthyError("; ".join(finding.message for finding in stops), hint="\n".join(remedies))


def is_ready(findings: Iterable[Finding]) -> bool:
    return all(finding.level is not Level.PROBLEM for finding in findings)


def _run(check: Check, settings: Settings) -> Iterator[Finding]:
    # A boundary: what a check stumbles over is a finding like any other, and the next check still has its say.
    try:
        yield from check(settings)
    except Exception as error:
        name = check.__name__.lstrip("_").removeprefix("check_")
        logger.debug("the check %s failed", name, exc_info=True)
        yield problem(
            name, f"this could not be looked at: {error}", "see whether the next start can; if not, report it"
        )
