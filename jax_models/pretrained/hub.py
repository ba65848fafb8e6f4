"""Sources on the Hugging Face hub: `hf:ORG/NAME[@REVISION]` and `timm/NAME.TAG`.

huggingface_hub does the work, with its cache, its offline mode, its progress bars, and whatever
else its environment variables say.
"""

from collections.abc import Callable
from pathlib import Path

from jax_models.pretrained.errors import SourceError
from jax_models.pretrained.folder import CONFIG, PREPROCESSOR, WEIGHTS, shards


def is_on_hub(source: str) -> bool:
    """Whether a source is named as on the hub; a local path of that name comes first."""
    return source.startswith("hf:") or (source.startswith("timm/") and not Path(source).exists())


def fetch(source: str, check: Callable[[Path], object] = lambda folder: None) -> Path:
    """Return a local folder with the files of a source on the hub, downloaded where they must be.

    Args:
      source: `hf:ORG/NAME`, `hf:ORG/NAME@REVISION`, or `timm/NAME.TAG` for `hf:timm/NAME.TAG`.
      check: `f(folder)` raises a SourceError where the config is of no use; before the weights.

    Raises:
      SourceError: there is no such source, or a file of it cannot be fetched.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise SourceError(
            f"{source} is on the Hugging Face hub: pip install huggingface_hub, or download its "
            "files elsewhere and give the folder."
        ) from None
    name, _, revision = source.removeprefix("hf:").partition("@")
    files = _Files(huggingface_hub, source, name, revision or None)
    config = files.get(CONFIG, revision or None)
    if config is None:
        raise SourceError(f"{source} has no {CONFIG}: it holds no model of transformers or timm.")
    check(config.parent)
    commit = config.parent.name  # of all files, whatever happens to the branch meanwhile
    files.get(PREPROCESSOR, commit)
    for weights in WEIGHTS:
        if (path := files.get(weights, commit)) is None:
            continue
        for shard in shards(path):
            if files.get(shard, commit) is None:
                raise SourceError(f"{source}: {weights} names {shard}, which is not there.")
        return config.parent
    where = "in the cache, and HF_HUB_OFFLINE is set" if files.offline else "on the hub"
    raise SourceError(f"{source} has none of {', '.join(WEIGHTS)} {where}.")


class _Files:
    """The files of one source on the hub."""

    def __init__(self, hub, source: str, repository: str, revision: str | None):
        self._hub, self._source, self._repository = hub, source, repository
        self.offline = hub.constants.is_offline_mode()
        self._unreached = None if self.offline else self._why_unreached(revision)

    def get(self, name: str, revision: str | None) -> Path | None:
        """The local path of a file, downloaded where it must be; None: there is none of that name.

        Raises:
          SourceError: it cannot be fetched.
        """
        errors = self._hub.errors
        try:
            how = {"revision": revision, "local_files_only": self._unreached is not None}
            return Path(self._hub.hf_hub_download(self._repository, name, **how))
        except errors.LocalEntryNotFoundError as error:
            if name != CONFIG and (self.offline or self._is_known_to_lack(name, revision)):
                return None
            says = self._unreachable(name, self._unreached or error.__cause__)
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError:
            says = "wants its terms accepted on its page, and a token (hf auth login)"
        except errors.RepositoryNotFoundError:
            says = "does not exist on the hub, or is private. Check the name, or run hf auth login"
        except errors.RevisionNotFoundError:
            says = f"has no revision {revision!r}. Check the part after '@'"
        except errors.HFValidationError:
            says = "is no name on the hub; expected hf:ORG/NAME, with @REVISION if need be"
        except Exception as error:  # of the network, the disk or the server
            reason = " ".join(str(error).split()) or type(error).__name__
            says = f"could not be fetched ({name}: {reason[:200].rstrip('.')}). Try again"
        raise SourceError(f"{self._source} {says}.")

    def _why_unreached(self, revision: str | None) -> Exception | None:
        """Why the hub cannot be reached; None if it can.

        Asked for once, at the start: hf_hub_download tries for half a minute.
        """
        try:
            url = self._hub.hf_hub_url(self._repository, CONFIG, revision=revision)
            self._hub.get_hf_file_metadata(url)
        except (self._hub.errors.HfHubHTTPError, self._hub.errors.HFValidationError):
            return None  # what it answers is told where the file is fetched
        except Exception as error:  # of the network: each library of HTTP has its own
            return error
        return None

    def _is_known_to_lack(self, name: str, revision: str | None) -> bool:
        found = self._hub.try_to_load_from_cache(self._repository, name, revision=revision)
        return found is not None and not isinstance(found, str)

    def _unreachable(self, name: str, error: BaseException | None) -> str:
        if self.offline:
            cause, cure = "HF_HUB_OFFLINE is set", "unset it once"
        else:
            cause = f"the hub cannot be reached ({type(error).__name__})"
            cure = "connect"
        return (
            f"cannot be fetched: its {name} is not in the cache, and {cause}. To use it, {cure}, "
            "or give a local folder with its files"
        )
