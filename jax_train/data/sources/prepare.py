"""Prepare data sets from their original archives, with no TensorFlow installed.

TFDS's own builders describe the data (features, class names, version, order of the records), its
download manager fetches the archives, and its writer writes the array_record files. Replaced are
the parts that need TensorFlow: unpacking the archives, reading their records and encoding PNG.
Photos of many sizes are unpacked into a folder by split and class instead.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import os
import shlex
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from jax_train.data.cache import remove_abandoned
from jax_train.data.sources.archives import PHOTOS, RECIPES
from jax_train.data.sources.archives.photos import Photos
from jax_train.data.sources.archives.recipe import Contents, PhotoRecipe, Recipe
from jax_train.data.sources.tfds_folder import (
    data_root,
    default_root,
    find_prepared,
    quiet_tfds,
    read_splits,
)
from jax_train.errors import UserError
from jax_train.files import expand
from jax_train.printing import on_terminal, progress_bar, say

PROBE_SECONDS = 8  # to find out that there is no network; also bounds a name server that hangs
_TIMEOUT = (5, 30)  # seconds to connect, and between two blocks of a download
KNOWN = RECIPES | PHOTOS
_RETRIES = 2  # TFDS's own ten take minutes where there is no network


def prepare(
    name: str,
    data_dir: str | os.PathLike | None = None,
    archives: Sequence[str | os.PathLike] = (),
    *,
    url_base: str | None = None,
    checksums: dict[str, tuple[int, str]] | None = None,
    progress: bool = True,
) -> Path:
    """Write a data set in TFDS's array_record format, or as a folder of photos.

    Does nothing if it is there already. The folder appears only when it is complete.

    Args:
      name: one of `KNOWN`.
      data_dir: TFDS's data folder; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.
      archives: the original archives on disk, or a folder with them; none: download them.
      url_base: where to download from; None: the address registered in TFDS.
      checksums: file name -> (size in bytes, SHA-256); None: those registered in TFDS.
      progress: show progress bars, where stderr is a terminal.

    Returns:
      The folder: of the prepared version, or with the photos by split and class.

    Raises:
      UserError: unknown name, no network, a wrong or damaged archive, or a full disk.
    """
    if name not in KNOWN:
        raise UserError(
            f"prepare {name!r}: expected one of {', '.join(KNOWN)}. Other TFDS data sets are "
            "read if they are already prepared in the array_record format."
        )
    root, recipe = data_root(data_dir), KNOWN[name]
    if folder := find(name, root):
        if name in RECIPES:
            read_splits(folder)  # raises if it is of a format that cannot be read
        return folder
    with quiet_tfds() as tfds, _disk_errors(root):
        builder_class = tfds.builder_cls(name)
        target = root / name / str(builder_class.VERSION)
        if name in RECIPES and target.exists() and find_prepared(name, root) != target:
            raise UserError(f"{target} is there but not complete. Remove it and prepare again.")
        builder = builder_class(data_dir=root)
        infos = {file: builder.url_infos[recipe.url + file] for file in recipe.files}
        for file, (size, sha256) in (checksums or {}).items():
            infos[file] = dataclasses.replace(infos[file], size=size, checksum=sha256)
        total = sum(info.size for info in infos.values())
        if archives:
            paths = _find_archives(name, recipe, archives)
            for file, path in paths.items():
                _verify(path, infos[file])
        else:
            if progress:
                size = f"{total / 1e6:,.0f} MB"
                say(f"{name} is not prepared in {root}: fetching it, {size}", error=True)
            infos = {(url_base or recipe.url) + file: info for file, info in infos.items()}
            with _tfds_bars(progress and on_terminal()):  # elsewhere they fill a log
                paths = _download(tfds, name, root, infos)
        if isinstance(recipe, PhotoRecipe):
            names = builder.info.features["label"].names
            return _unpack(recipe, paths, photo_folder(name, root), names, progress)
        with _tfds_bars(False):  # one bar of our own instead of its three
            return _write(builder, recipe.read(paths), total, progress)


def photo_folder(name: str, root: Path) -> Path:
    """Where the photos of a data set are unpacked to."""
    return root / name / "photos"


def find(name: str, root: Path) -> Path | None:
    """Return the folder of a data set of `KNOWN` that is prepared already."""
    if name in RECIPES:
        return find_prepared(name, root)
    folder = photo_folder(name, root)
    return folder if folder.is_dir() else None


def _unpack(
    recipe: PhotoRecipe, paths: dict[str, Path], target: Path, names: Sequence[str], progress: bool
) -> Path:
    """Unpack photos into a folder that is renamed when complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".photos-", dir=target.parent))
    place = temporary / target.name  # with the usual rights, which a temporary folder has not
    try:
        place.mkdir()
        with progress_bar(recipe.count, f"Unpacking {target.parent.name}", progress) as bar:
            recipe.unpack(paths, Photos(place, bar.update), list(names))
        place.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first, and its data is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def missing_message(name: str, root: Path, reason: str) -> str:
    """Say that data is not there, why, and the ways to get it, each on lines to copy."""
    base = name.split(":")[0].split("/")[0]
    recipe = KNOWN[base]
    one = len(recipe.files) == 1
    command = f"python -m jax_train prepare {base}"
    if root != default_root():
        command += f" --data_dir {shlex.quote(str(root))}"
    archive = f"--archive {recipe.files[0] if one else 'FOLDER'}"
    joint = " \\\n      " if len(command) + len(archive) > 76 else " "
    files = "\n".join(f"  {recipe.url}{file}" for file in recipe.files)
    return (
        f"The data set {name!r} is not prepared in {root}, and it was not downloaded: "
        f"{reason.rstrip('.')}. There are two ways without a download.\n"
        f"Fetch {'this file' if one else 'these files into one folder'} elsewhere, then prepare "
        f"{'it' if one else 'them'} here:\n{files}\n  {command}{joint}{archive}\n"
        "Or train with data that was prepared before, in another folder:\n"
        "  --config.data.data_dir=/path/to/tfds"
    )


def _plain_reason(error: Exception, url: str) -> str:
    """Say in a few words why a download failed."""
    import requests

    words = {  # the first kind that fits
        requests.Timeout: f"no answer from {url}",
        requests.exceptions.SSLError: f"the certificate of {url} is not accepted",
        requests.HTTPError: str(error),  # told by `_probe`
        requests.ConnectionError: f"{url} could not be reached",
        requests.RequestException: f"the download of {url} was cut short",
    }
    return next((text for kind, text in words.items() if isinstance(error, kind)), str(error))


def _find_archives(name: str, recipe: Recipe | PhotoRecipe, given: Sequence) -> dict[str, Path]:
    """Return file name -> path on disk of every archive of the recipe."""
    paths = [expand(path) for path in given]
    for path in paths:
        if not path.exists():
            raise UserError(f"--archive {path}: there is no such file or folder.")
    files = [path for path in paths if path.is_file()]
    if len(recipe.files) == 1 and len(files) == 1:  # under whatever name it was saved
        return {recipe.files[0]: files[0]}
    candidates = {path.name: path for path in files}
    for folder in (path for path in paths if path.is_dir()):
        candidates |= {file: folder / file for file in recipe.files if (folder / file).is_file()}
    if missing := [file for file in recipe.files if file not in candidates]:
        it = "it" if len(recipe.files) == 1 else "them"
        raise UserError(
            f"--archive {' '.join(map(str, given))}: for {name}, {', '.join(missing)} not found. "
            f"Expected {', '.join(recipe.files)}, or a folder that holds {it}."
        )
    return {file: candidates[file] for file in recipe.files}


def _verify(path: Path, expected) -> None:
    """Check an archive from disk against its size and SHA-256."""
    size = path.stat().st_size
    if size != expected.size:  # another file, of whatever size, is not read through
        raise UserError(
            f"{path} is not the original archive: it has {size:,} bytes; expected "
            f"{int(expected.size):,} bytes with SHA-256 {expected.checksum}. Fetch it again: it is "
            "incomplete, changed, or another file."
        )
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.checksum:
        raise UserError(
            f"{path} is not the original archive: it has SHA-256 {found}; expected "
            f"{expected.checksum}. Fetch it again: it is damaged, changed, or another file."
        )


def _download(tfds, name: str, root: Path, infos: dict) -> dict[str, Path]:
    """Fetch the archives (address -> size and SHA-256) into TFDS's download folder, or find them.

    Returns file name -> path.
    """
    import requests
    from tensorflow_datasets.core.download import download_manager, downloader

    urls = {url.rpartition("/")[2]: url for url in infos}
    folder = root / "downloads"
    new_parents = [path for path in (folder, root) if not path.exists()]
    before, own = set(folder.rglob("*")), []
    manager = tfds.download.DownloadManager(
        download_dir=folder, url_infos=infos, dataset_name=name, force_checksums_validation=True
    )
    # TFDS sets no timeout and retries for minutes; it opens an address only if it needs to.
    stop = threading.Event()  # else its threads would finish their files after Ctrl-C
    sizes = {url: int(info.size) for url, info in infos.items()}
    opener = functools.partial(_open_url, downloader._open_url, stop, sizes)
    patched = _replaced(downloader, _open_url=opener, MAX_RETRIES=_RETRIES)
    named = _replaced(download_manager, uuid=SimpleNamespace(uuid4=lambda: _noted(own)))
    try:
        with patched, named:
            return {file: Path(path) for file, path in manager.download(urls).items()}
    except (tfds.download.DownloadError, requests.RequestException) as error:
        reason = _plain_reason(error, next(iter(infos)))
        raise UserError(missing_message(name, root, reason)) from error
    except download_manager.NonMatchingChecksumError as error:
        reason = "has a wrong checksum: it is cut short or changed"
        reason = f"what came from {next(iter(infos))} {reason}"
        raise UserError(missing_message(name, root, reason)) from error
    finally:
        stop.set()
        _remove_partial(set(folder.rglob("*")) - before, own, new_parents)


def _noted(own: list[uuid.UUID]) -> uuid.UUID:
    """A new end for the name of an incomplete file, which is added to the list."""
    own.append(uuid.uuid4())
    return own[-1]


def _remove_partial(created: set[Path], own: list[uuid.UUID], parents: list[Path]) -> None:
    """Remove what an interrupted download left, and the folders that are empty for it.

    Incomplete files of other processes, which fetch the same archives, are left alone.
    """
    for path in created:
        if path.name.endswith(tuple(f".tmp.{number.hex}" for number in own)):
            shutil.rmtree(path, ignore_errors=True)
    for path in (*sorted(created, reverse=True), *parents):
        if ".tmp." in path.name:
            continue
        with contextlib.suppress(OSError):
            path.rmdir()  # succeeds for empty folders only


@contextlib.contextmanager
def _open_url(
    original, stop: threading.Event, sizes: dict[str, int], url: str, **kwargs
) -> Iterator[tuple]:
    """Open an address as TFDS does, with timeouts, a quick look at the network, and an end."""
    _probe(url)
    with original(url, timeout=_TIMEOUT, **kwargs) as (response, blocks):
        blocks = itertools.takewhile(lambda _: not stop.is_set(), blocks)
        yield response, _no_longer_than(blocks, sizes.get(url))


def _no_longer_than(blocks: Iterator[bytes], size: int | None) -> Iterator[bytes]:
    """End behind the block that goes beyond the size: the checksum is wrong by then."""
    total = 0
    for block in blocks:
        yield block
        total += len(block)
        if size is not None and total > size:
            return  # a server that sends without end would fill the disk


def _probe(url: str) -> None:
    """Raise within PROBE_SECONDS if the address does not answer, even if its name hangs."""
    import requests

    outcome = []

    def ask():
        try:
            with requests.get(url, stream=True, timeout=PROBE_SECONDS) as response:
                outcome.append(response.status_code)
        except Exception as error:  # raised again in the thread that waits
            outcome.append(error)

    # A daemon thread: looking up a name cannot be interrupted, and must not hold the exit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not outcome:
        raise requests.Timeout(f"no answer from {url} within {PROBE_SECONDS} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    if outcome[0] != 200:
        raise requests.HTTPError(f"{url} answers with HTTP status {outcome[0]}")


def _write(builder, contents: Contents, download_size: int, progress: bool) -> Path:
    """Write the records through TFDS's builder, into a folder that is renamed when complete."""
    for key, names in contents.class_names.items():
        builder.info.features[key].names = list(names)
    total = sum(len(images) for _, images, _ in contents.splits)
    bar = progress_bar(total, f"Preparing {builder.name}", progress)

    generators = {split[0]: _examples(*split, contents.id_digits, bar) for split in contents.splits}
    target = Path(builder.data_dir)
    manager = SimpleNamespace(downloaded_size=builder.info.download_size + download_size)
    replaced = _replaced(
        builder,
        _split_generators=lambda dl_manager: generators,
        _make_download_manager=lambda **_: manager,
        _log_download_bytes=lambda: None,
        _log_download_done=lambda: None,
    )
    with bar, replaced:
        try:
            builder.download_and_prepare(file_format="array_record")
        except (OSError, RuntimeError) as error:  # the C++ writer raises RuntimeError
            if find_prepared(builder.name, target.parent.parent) != target:
                raise OSError(" ".join(str(error).split())) from error
            # else another process was first, and its data is as good
    return target


def _examples(split: str, images, labels: dict, id_digits: int, bar) -> Iterator:
    """Yield (key, example) as TFDS's own builders do, with the image as PNG bytes."""
    from PIL import Image

    for i, pixels in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
        example = {"image": buffer.getvalue()} | {key: int(a[i]) for key, a in labels.items()}
        if id_digits:
            example["id"] = f"{split}_{i:0{id_digits}d}"
        yield i, example
        bar.update()


def _tfds_bars(show: bool) -> contextlib.AbstractContextManager:
    """Whether TFDS shows its progress bars."""
    from tensorflow_datasets.core.utils import tqdm_utils

    return _replaced(tqdm_utils, _active=show)


@contextlib.contextmanager
def _replaced(target, **attributes) -> Iterator[None]:
    """Give a module or an object of TFDS other attributes for a while."""
    before = {name: getattr(target, name) for name in attributes}
    try:
        vars(target).update(attributes)
        yield
    finally:
        vars(target).update(before)


@contextlib.contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Turn errors of the disk into a UserError; TFDS has removed its incomplete folder by then."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(
            f"Preparing data in {root} failed: {error.strerror or error}{where}. Nothing "
            "incomplete was kept. Check access and free space, or choose another data_dir."
        ) from error
