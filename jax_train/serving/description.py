"""The OpenAPI description of the server, https://spec.openapis.org/oas/v3.1.1.html."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jax_train.serving.uploads import Limits

_FOUND = {"200": "the answer"}
_CLASSES = {"type": "array", "items": {"$ref": "#/components/schemas/Class"}}
_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


_MODEL = _object(
    {
        "name": _TEXT,
        "family": _TEXT,
        "image": _object({name: {"type": "integer"} for name in ("width", "height", "channels")}),
        "classes": {"type": "array", "items": _TEXT},
        "maps": {"type": "array", "items": {"enum": ["attention", "Grad-CAM"]}},
        "notes": {"type": "array", "items": _TEXT},
    }
)
_MAP = _object(
    {
        "name": _TEXT | {"description": "rollout, block N or stage N"},
        "src": _TEXT | {"description": "PNG as a data URI"},
        **{
            name: _NUMBER | {"description": "its place on the image, in percent"}
            for name in ("left", "top", "width", "height")
        },
        "largest": _NUMBER | {"description": "share of the attention, or units of the logit"},
        "where": _TEXT | {"description": "where it is strongest"},
    }
)
_IMAGE = _object(
    {
        "src": _TEXT | {"description": "PNG as a data URI: what the model sees"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
    }
)
SCHEMAS = {
    "Class": _object({"class": _TEXT, "index": {"type": "integer"}, "probability": _SHARE}),
    "Prediction": _object({"name": _TEXT, "classes": _CLASSES, "error": _TEXT}, "classes", "error"),
    "Predictions": _object(
        {
            "model": _TEXT,
            "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}},
            "error": _TEXT,
        },
        "error",
    ),
    "Explanation": _object(
        {
            "name": _TEXT,
            "model": _TEXT,
            "classes": _CLASSES,
            "image": _IMAGE,
            "maps": {"type": "array", "items": _MAP},
        }
    ),
    "Model": _MODEL,
    "Models": _object(
        {"models": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}}
    ),
    "Health": _object(
        {
            "status": {"enum": ["ok", "failed"]},
            "models": {"type": "array", "items": _TEXT},
            "requests": {"type": "integer", "description": "that are being worked on"},
        }
    ),
    "Error": _object({"error": _TEXT | {"description": "what is wrong, and what to do"}}),
}


def of(models: Sequence[dict[str, Any]], limits: Limits) -> dict[str, Any]:
    """Describe the server of some models, of which `ServedModel.facts` tells."""
    names = [model["name"] for model in models]
    limited = f"up to {limits.megabytes:g} MB and {limits.megapixels:g} megapixels an image"
    refusals = {
        "400": "the request calls the server by a name that is not this machine's",
        "404": "there is no such model",
        "408": "the upload took too long",
        "413": f"more than {limits.megabytes:g} MB",
        "422": "no image, or not one that can be read",
        "429": f"{limits.queue} requests are being worked on; try again",
        "500": "the model failed",
    }
    paths = {
        "/predict": _post(
            names, refusals, "Predictions", f"The likeliest classes of images, {limited}"
        ),
        "/explain": _post(
            names, refusals, "Explanation", f"The same of one image, and where it looks, {limited}"
        ),
        "/models": _get("Models", "The models that are served"),
        "/healthz": _get("Health", "Whether the server works", _FOUND | {"503": "it does not"}),
    }
    return {
        "openapi": "3.1.1",
        "info": {"title": "jax-vit-cnn", "version": _version()},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _version() -> str:
    try:
        return version("jax-vit-cnn")
    except PackageNotFoundError:  # a folder that is not installed
        return "0"


def _answers(schema: str, texts: dict[str, str]) -> dict[str, Any]:
    """Answers of one form, by their status."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {code: {"description": text, "content": content} for code, text in texts.items()}


def _get(schema: str, summary: str, texts: dict[str, str] = _FOUND) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _answers(schema, texts)}}


def _post(
    names: Sequence[str], refusals: dict[str, str], schema: str, summary: str
) -> dict[str, Any]:
    query = {"in": "query", "required": False}
    binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    one = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"type": "object", "additionalProperties": {"type": "array", "items": one}}
    return {
        "post": {
            "summary": summary,
            "parameters": [
                query | {"name": "model", "schema": {"enum": list(names), "default": names[0]}},
                query | {"name": "top", "schema": {"type": "integer", "minimum": 1, "default": 5}},
            ],
            "requestBody": {
                "required": True,
                "content": {"image/*": binary, "multipart/form-data": {"schema": form}},
            },
            "responses": _answers(schema, _FOUND) | _answers("Error", refusals),
        }
    }
