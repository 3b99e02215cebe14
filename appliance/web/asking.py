"""What can be asked for over the API: an action is written down, and the loop acts on it; an upload becomes a drop."""

from functools import partial
from typing import Annotated, Final, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from appliance.actions import why_not, why_not_with_library
from appliance.web.answers import AskedAnswer, DropAnswer
from appliance.web.api import REFUSALS, job_finder
from appliance.web.guards import CSRF_FIELD, check_proof, check_recipe, may_act, wants_page
from appliance.web.site import Site
from appliance.web.uploads import Uploads

FORM_BYTES: Final = 16_384
UPLOAD_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "recipe": {"type": "string", "description": "The name of a library recipe."},
                        "check": {"type": "string", "description": "Anything: a dry run."},
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    },
                }
            }
        },
    }
}


def make_asking(site: Site) -> APIRouter:
    """Everything below `/api/v1` that changes something. All of it needs the API token."""
    api = APIRouter(prefix="/api/v1", tags=["API"], dependencies=[Depends(may_act(site))], responses=REFUSALS)
    find = job_finder(site)
    uploads = Uploads(site)

    @api.post("/jobs/{id}/{action}", status_code=202, response_model=AskedAnswer, summary="Ask for an action")
    async def act(
        id: str,
        action: Literal["cancel", "retry", "approve", "push"],
        request: Request,
        recipe: Annotated[str, Query(description="For retry: a library recipe to use instead of the job's own.")] = "",
    ) -> Response:
        form = await prove(request)
        target, name = find(id), recipe or form.get("recipe", "")
        if name and action != "retry":
            raise HTTPException(422, f"{action} takes no recipe")
        check_recipe(site, name)
        hub = site.settings.hub_org is not None
        if problem := why_not_with_library(target) if name else why_not(target, action, hub=hub):
            raise HTTPException(409, problem)
        arguments = {"library_recipe": name} if name else {}
        await to_thread.run_sync(partial(site.store.ask, action, str(target.number), now=site.clock(), **arguments))
        return _asked(request, AskedAnswer(asked=action, target=target.id), page=f"/jobs/{target.number}")

    @api.post("/queue/{action}", status_code=202, response_model=AskedAnswer, summary="Pause or resume")
    async def queue(action: Literal["pause", "resume"], request: Request) -> Response:
        await prove(request)
        await to_thread.run_sync(partial(site.store.ask, action, "queue", now=site.clock()))
        return _asked(request, AskedAnswer(asked=action, target="queue"), page="/")

    @api.post("/drops", status_code=201, response_model=DropAnswer, openapi_extra=UPLOAD_BODY)
    async def drops(request: Request) -> Response:
        """Put files into the inbox: a dataset, a recipe, or both. They are a drop like any other."""
        dropped = DropAnswer(dropped=await uploads.take(request))
        return _asked(request, dropped, page="/inbox", code=201)

    async def prove(request: Request) -> dict[str, str]:
        form = await _small_form(request)
        check_proof(site, request, form.get(CSRF_FIELD, ""))
        return form

    return api


async def _small_form(request: Request) -> dict[str, str]:
    """The fields of a small form, the proof among them; programs send none."""
    if "form" not in request.headers.get("content-type", ""):
        return {}
    if int(request.headers.get("content-length", FORM_BYTES)) > FORM_BYTES:
        raise HTTPException(413, "the form is too large")
    async with request.form(max_files=0, max_fields=8, max_part_size=FORM_BYTES) as form:
        return {name: str(value) for name, value in form.items()}


def _asked(request: Request, said: AskedAnswer | DropAnswer, *, page: str, code: int = 202) -> Response:
    """The answer for programs; people are led back to a page."""
    if wants_page(request):
        return RedirectResponse(page, 303)
    return JSONResponse(said.model_dump(), code)
