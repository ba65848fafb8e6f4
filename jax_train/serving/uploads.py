"""What a request sends: image files, in memory and within limits."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import python_multipart  # noqa: F401  Starlette reads forms with it, and tells too late
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from jax_train.data.decoding import Encoded
from jax_train.printing import readable, shorten


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
      megabytes: most of a request.
      megapixels: most of an image; of a JPEG, which is then decoded at half its sides, four times.
      images: most in a request.
      queue: requests that are worked on or wait at once.
      seconds: for the upload of a request.
    """

    megabytes: float = 20.0
    megapixels: float = 25.0
    images: int = 32
    queue: int = 64
    seconds: float = 60.0


async def read_images(request: Request, limits: Limits) -> list[Encoded]:
    """Read the images of a request: the files of a form (multipart), or the body as it is.

    Nothing goes to disk, and the names of files are for people alone.

    Raises:
      HTTPException: 400, 408, 413 or 422, with the reason.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            files = await _read(request, limits)
    except TimeoutError:
        raise HTTPException(
            408, f"The upload took longer than {limits.seconds:g} seconds. Send it again."
        ) from None
    except ClientDisconnect:  # nobody reads the answer, and the server has not failed
        raise HTTPException(400, "The upload was broken off. Send it again.") from None
    if not files:
        raise HTTPException(422, f"The request holds no image. {_HOW}")
    return files


_HOW = (
    "Send an image as the body, as curl --data-binary @cat.jpg does, or images as files of a "
    "form, as curl -F image=@cat.jpg does."
)


async def _read(request: Request, limits: Limits) -> list[Encoded]:
    most = int(limits.megabytes * 1e6)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, most, limits.images)
    body = b"".join([part async for part in _within(request, most)])
    return [Encoded("image", body)] if body else []


async def _within(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body, part by part, up to `most` bytes."""
    told = request.headers.get("content-length", "")
    taken = int(told) if told.isdecimal() else 0
    if taken <= most:
        taken = 0
        async for part in request.stream():
            taken += len(part)
            if taken > most:
                break
            yield part
    if taken > most:
        raise HTTPException(
            413,
            f"The request is larger than {most / 1e6:g} MB, the most that is taken. Send fewer "
            "images, or smaller ones.",
        )


async def _form(request: Request, most: int, images: int) -> list[Encoded]:
    parser = MultiPartParser(
        request.headers, _within(request, most), max_files=images, max_fields=images
    )
    parser.spool_max_size = most + 1  # in memory
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError) as error:  # a charset may raise any of these
        text = f"The form cannot be read: {str(error).rstrip('.')}. {_HOW}"
        raise HTTPException(422, text) from None
    try:
        return [await _file(field, value) for field, value in form.multi_items()]
    finally:
        await form.close()


async def _file(field: str, value: UploadFile | str) -> Encoded:
    if not isinstance(value, UploadFile):
        name = shorten(readable(field), 40)
        raise HTTPException(422, f"The field {name!r} of the form is no file. {_HOW}")
    return Encoded(readable(value.filename or field), await value.read())
