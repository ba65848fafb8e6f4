"""The routes: a page, and JSON of it."""

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from jax_train.data.decoding import Encoded
from jax_train.errors import UserError, nearest
from jax_train.printing import counted, printable, readable, shorten
from jax_train.serving import description, page
from jax_train.serving.batching import Batcher, Work
from jax_train.serving.hosts import OnlyNames
from jax_train.serving.models import ServedModel, image_answer, map_answers
from jax_train.serving.uploads import Limits, read_images

TOP = 5  # classes that are answered
_DECODERS = min(4, os.cpu_count() or 1)  # threads; each may hold an image of the most pixels


class Server:
    """Models that answer requests.

    Args:
      models: at least one.
      batcher: computes.
      limits: of what is taken.
    """

    def __init__(self, models: Sequence[ServedModel], batcher: Batcher, limits: Limits):
        self._models = {model.name: model for model in models}
        self._batcher, self._limits, self._at_once = batcher, limits, 0
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        facts = [model.facts() for model in models]
        self._facts, self._page = facts, page.render(facts, limits)
        self._description = description.of(facts, limits)

    def app(self, hosts: Sequence[str] | None = None) -> Starlette:
        """What Uvicorn runs; `hosts` are the names by which requests may call it, None: any."""
        return Starlette(
            routes=[
                Route("/", self._show_page),
                Route("/predict", self._predict, methods=["POST"]),
                Route("/explain", self._explain, methods=["POST"]),
                Route("/models", self._tell_models),
                Route("/healthz", self._tell_health),
                Route("/openapi.json", self._describe),
            ],
            middleware=[Middleware(OnlyNames, names=tuple(hosts))] if hosts else [],
            exception_handlers={
                HTTPException: _refusal,
                UserError: _failure,
                Exception: _unknown_failure,
            },
        )

    async def _show_page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers={"X-Frame-Options": "DENY"})

    async def _tell_models(self, request: Request) -> Response:
        return JSONResponse({"models": self._facts})

    async def _tell_health(self, request: Request) -> Response:
        alive = self._batcher.alive
        said = {
            "status": "ok" if alive else "failed",
            "models": list(self._models),
            "requests": self._at_once,
        }
        return JSONResponse(said, 200 if alive else 503)

    async def _describe(self, request: Request) -> Response:
        return JSONResponse(self._description)

    async def _predict(self, request: Request) -> Response:
        model, top = self._model(request), _top(request)
        with self._admitted():
            files = await read_images(request, self._limits)
            found = await asyncio.gather(*(self._of(model, model.predict, one) for one in files))
        predictions = [
            _named(file, {"error": said} if isinstance(said, str) else {
                "classes": model.likeliest(said, top)
            })
            for file, said in zip(files, found, strict=True)
        ]  # fmt: skip
        body = {"model": model.name, "predictions": predictions}
        if all("error" in one for one in predictions):
            many = counted(len(files), "image")
            which = f": {predictions[0]['error']}" if len(files) == 1 else ""
            body["error"] = f"{many} sent, of which none can be read{which}."
            return JSONResponse(body, 422)
        return JSONResponse(body)

    async def _explain(self, request: Request) -> Response:
        model, top = self._model(request), _top(request)
        with self._admitted():
            file, *more = await read_images(request, self._limits)
            if more:
                raise HTTPException(422, f"{1 + len(more)} images were sent; /explain takes one.")
            look = await self._of(model, model.look, file)
            if isinstance(look, str):
                raise HTTPException(422, f"The image cannot be read: {look}.")
            body = {
                "model": model.name,
                "classes": model.likeliest(look.probabilities, top),
                "image": await self._in_thread(image_answer, look.pixels),
                "maps": await self._in_thread(map_answers, look.maps, look.pixels),
            }
        return JSONResponse(_named(file, body))

    def _model(self, request: Request) -> ServedModel:
        """The model that a request names; the first one where it names none."""
        name = request.query_params.get("model")
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            told = nearest(name, self._models)
            raise HTTPException(404, f"There is no model {shorten(readable(name), 60)!r}{told}.")
        return self._models[name]

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a request among those that are worked on, if there is room."""
        if self._at_once >= self._limits.queue:
            text = f"{self._at_once} requests are being worked on, the most at once. Try again."
            raise HTTPException(429, text, {"Retry-After": "1"})
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1

    async def _of(self, model: ServedModel, work: Work, file: Encoded) -> Any:
        """What a model makes of an image; text where it cannot be read."""
        with self._batcher.coming():
            image = await self._in_thread(model.decode, file)
            if isinstance(image, str):
                return image
            result = self._batcher.submit(work, image)
        return await asyncio.wrap_future(result)

    def _in_thread(self, function, *args) -> asyncio.Future:
        return asyncio.get_running_loop().run_in_executor(self._decoders, function, *args)


def _named(file: Encoded, said: dict[str, Any]) -> dict[str, Any]:
    return {"name": shorten(file.name, 200), **said}


def _top(request: Request) -> int:
    """How many classes a request asks for."""
    text = request.query_params.get("top", str(TOP))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        said = shorten(readable(text), 40)
        raise HTTPException(422, f"top={said}: expected a whole number of classes, at least 1.")
    return int(text)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = error.detail
    if error.status_code == 404 and text == "Not Found":
        text = f"There is nothing at {shorten(readable(request.url.path), 60)}: see /openapi.json."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        text = f"{request.url.path} takes no {readable(request.method)}, but {allowed}."
    return JSONResponse({"error": text}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": printable(str(error))}, 500)


async def _unknown_failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "The server failed; its own output says why."}, 500)
