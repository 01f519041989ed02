"""What is at each path. It only shows; whether it may be asked, the guard around it decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from distwatch.errors import DistwatchError, NoSuchTarget
from distwatch.report.formats import CONTENT_TYPES
from distwatch.runfolder import RunFolder
from distwatch.web.answer import HTML, Answer, sentence
from distwatch.web.guard import response_of
from distwatch.web.live import Hub, TooMany, Watch, event
from distwatch.web.live_page import run_page, runs_page
from distwatch.web.looks import GONE, RunLook, RunsLook, Turns
from distwatch.web.pages import Pages

if TYPE_CHECKING:
    from starlette.types import Send

ANSWER_WITHIN_S = 60.0
"""The time limit to make an answer: large runs take turns."""
PATHS = (
    "/", "/runs", "/runs/ID", *(f"/runs/ID/report.{output}" for output in CONTENT_TYPES), "/api/runs",
    *(f"/api/runs/ID/{what}" for what in ("report", "status", "stacks", "ranks/N")), "/metrics",
)  # fmt: skip
_RUNS = "runs"
Handler = Callable[[Request], Awaitable[Response]]


class Application:
    """The pages and the JSON of a server, and its live watches."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._turns = Turns()
        self.hub = Hub()

    def routes(self) -> Router:
        """The ASGI application."""
        pages = self._pages
        run = "/runs/{run_id}"
        of_run = {
            "status": lambda name, _: pages.status(name),
            "report": lambda name, _: pages.report(name, "json"),
            "stacks": lambda name, _: pages.stacks(name),
            "ranks/{rank}": lambda name, rank: pages.rank(name, rank),
        }
        routes = [
            Route("/", _told(self._first)),
            Route("/runs", _told(self._runs)),
            Route("/runs/events", _told(self._runs_events)),
            Route(run, _told(self._run)),
            Route(f"{run}/events", _told(self._run_events)),
            Route(f"{run}/ranks/{{rank:int}}", _told(self._rank)),
            Route(f"{run}/status.json", self._made(of_run["status"])),
            *(Route(f"{run}/report.{o}", self._made(_report(pages, o))) for o in CONTENT_TYPES),
            Route("/api/runs", self._made(lambda *_: pages.runs())),
            *(Route(f"/api{run}/{what}", self._made(make)) for what, make in of_run.items()),
            Route("/metrics", self._made(lambda *_: pages.metrics())),
            Route("/favicon.ico", _told(_nothing)),
        ]
        nothing = sentence(404, f"there is no such page; the pages are {', '.join(PATHS)}")
        return Router(routes, redirect_slashes=False, default=response_of(nothing))

    def _made(self, make: Callable[[str, str], Answer]) -> Handler:
        """What answers with a document that is made in turn, of the run and rank in the path."""

        async def answer(request: Request) -> Response:
            named = (request.path_params.get(name, "") for name in ("run_id", "rank"))
            return response_of(await self._turns.make(lambda: make(*named)))

        return _told(answer)

    async def _first(self, request: Request) -> Response:
        return await self._page(await self._turns.make(self._pages.named))

    async def _run(self, request: Request) -> Response:
        return await self._page(await self._folder(request))

    async def _page(self, folder: RunFolder) -> Response:
        watch = await self._watch(folder)
        look, at = watch.look, self.hub.at(watch)
        assert isinstance(look, RunLook)
        assert look.report is not None
        report = look.report
        page = await self._turns.make(lambda: run_page(report, at))
        return Response(page, media_type=HTML)

    async def _run_events(self, request: Request) -> Response:
        try:
            folder = await self._folder(request)
            watch = await self._watch(folder)
        except NoSuchTarget:
            if not _left_off(request):
                raise
            # A page that was open before learns nothing from a status: the browser keeps it to itself.
            return Response(event("over", GONE.encode()), media_type=_Events.media_type)
        return self._stream(request, folder.path, watch)

    async def _rank(self, request: Request) -> Response:
        path = request.url.path.rpartition("/ranks/")[0]
        return RedirectResponse(f"{path}#r{request.path_params['rank']}", 303)

    async def _runs(self, request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return response_of(await self._turns.make(self._pages.runs))  # as /api/runs
        watch = await self._watch_runs()
        return Response(runs_page(watch.newer(0)[_RUNS], self.hub.at(watch)), media_type=HTML)

    async def _runs_events(self, request: Request) -> Response:
        return self._stream(request, _RUNS, await self._watch_runs())

    async def _folder(self, request: Request) -> RunFolder:
        name = request.path_params["run_id"]
        return await self._turns.make(lambda: self._pages.folder(name))

    async def _watch(self, folder: RunFolder) -> Watch:
        return await self.hub.watch(folder.path, lambda: RunLook(folder, self._turns))

    async def _watch_runs(self) -> Watch:
        return await self.hub.watch(_RUNS, lambda: RunsLook(self._pages.root, self._turns))

    def _stream(self, request: Request, key: str, watch: Watch) -> Response:
        self.hub.require_room()
        if request.method == "HEAD":
            return Response(media_type=_Events.media_type)
        return _Events(self.hub.stream(key, watch, _left_off(request)))


class _Events(StreamingResponse):
    """Server-sent events; however it ends, their generator is closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(events)
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Sends them until they end or the client leaves."""
        async with aclosing(self._events):  # type: ignore[type-var]
            await super().stream_response(send)


def _left_off(request: Request) -> str:
    """The version that the page has; '' where it has none. A browser that connects again names its last event."""
    return request.headers.get("last-event-id") or request.query_params.get("after", "")


def _told(handler: Handler) -> Handler:
    """The same handler, with a deadline, whose errors are sentences."""

    async def answer(request: Request) -> Response:
        try:
            with anyio.fail_after(ANSWER_WITHIN_S):
                return await handler(request)
        except NoSuchTarget as error:
            told = sentence(404, str(error))
        except TooMany as error:
            told = sentence(503, str(error))
        except TimeoutError:
            told = sentence(503, f"this took longer than {ANSWER_WITHIN_S:.0f} s: try again")
        except DistwatchError as error:
            told = sentence(500, str(error))
        return response_of(told)

    return answer


def _report(pages: Pages, output: str) -> Callable[[str, str], Answer]:
    return lambda name, _: pages.report(name, output)


async def _nothing(_: Request) -> Response:
    return Response(status_code=204)
