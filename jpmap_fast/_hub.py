"""Files of the Hugging Face hub by name, hf://owner/name@revision/file, and never a pickle."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from jpmap_fast._messages import one_line, one_of

SCHEME, SUFFIX = "hf://", ".safetensors"
_FORM = re.compile(r"(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/@]+))?(/(?P<file>.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Seconds that the hub has to say what a repository holds.
_PATIENCE = 10


@dataclass(frozen=True)
class HubName:
    """What a text names on the hub.

    Attributes:
        repository: as owner/name, of a model.
        revision: a branch, a tag or a commit; None for the main branch.
        file: in the repository; None for the one safetensors file that it holds.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def of(cls, text: str) -> HubName:
        """The parts of "hf://owner/name", "@revision" and "/file" after it or not.

        A revision with a slash is written with %2F.

        Raises:
            ValueError: another form, or a file that is none of safetensors.
        """
        match = _FORM.fullmatch(text.removeprefix(SCHEME)) if text.startswith(SCHEME) else None
        if match is None:
            raise ValueError(
                f"{text}: expected the text {SCHEME}owner/name, with @revision and /file{SUFFIX} "
                "behind it where these matter"
            )
        revision, file = match["revision"], match["file"]
        found = cls(match["repository"], None if revision is None else unquote(revision), file)
        if file is not None and not found.is_weights:
            raise ValueError(
                f"{text}: expected a {SUFFIX} file of the repository, got {file!r}; files of other "
                "kinds may hold code and are not read from the hub"
            )
        return found

    @property
    def is_weights(self) -> bool:
        """Whether its file is one of safetensors, in the repository."""
        parts = (self.file or "").split("/")
        return parts[-1].endswith(SUFFIX) and not {"", ".", ".."} & set(parts)

    @property
    def is_pinned(self) -> bool:
        """Whether it names the same bytes for ever: a file of a commit."""
        return self.file is not None and _COMMIT.fullmatch(self.revision or "") is not None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{quote(self.revision, safe='')}"
        return f"{SCHEME}{self.repository}{revision}" + (
            "" if self.file is None else f"/{self.file}"
        )


def on_hub(name: str | Path) -> bool:
    """Whether a name is meant for the hub, a ``Path`` of one too, which has lost a slash."""
    return str(name).startswith(("hf:/", "hf:\\"))


def pinned_name(name: str) -> str:
    """The name with the commit and the file that it means now, so that it means them for ever.

    Args:
        name: such as "hf://owner/name"; any other name, of a bundled prior or a path, comes back as
            it is.

    Returns:
        Such as "hf://owner/name@<40 digits>/file.safetensors".

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: not of this form, or several files to choose from.
        FileNotFoundError: no such repository, revision or file.
        ConnectionError: the hub cannot be reached; what its cache holds is named.
    """
    return str(_pinned(HubName.of(name))) if on_hub(name) else name


def downloaded(name: str) -> Path:
    """The file that a name means on the hub, in the cache of huggingface_hub.

    It warns where the name does not say the commit and the file, with the name that does.

    Raises:
        ImportError, ValueError, FileNotFoundError, ConnectionError: as ``pinned_name``.
    """
    asked = HubName.of(name)
    found = _pinned(asked)
    if not asked.is_pinned:
        warnings.warn(f"{name} is now {found}; name that to keep to it", stacklevel=2)
    api = _hub().HfApi()
    with _told(found):
        # What is in the cache of a commit is not asked for again.
        return Path(api.hf_hub_download(found.repository, found.file, revision=found.revision))


def only_weights(files: Sequence[str], where: str, how: str) -> str:
    """The one safetensors file among the names of a folder's files.

    Args:
        files: names.
        where: they are, for the message.
        how: to name one of several.

    Raises:
        FileNotFoundError: there is none. ValueError: there are several.
    """
    found = sorted(file for file in files if file.endswith(SUFFIX) and "/" not in file)
    if not found:
        raise FileNotFoundError(f"{where}: expected a {SUFFIX} file in it, found none")
    if len(found) > 1:
        raise ValueError(f"{where}: expected one {SUFFIX} file, got {', '.join(found)}; {how}")
    return found[0]


def _pinned(name: HubName) -> HubName:
    if name.is_pinned:
        return name
    commit, files = _listed(name)
    pinned = replace(name, revision=commit)
    if name.file is None:
        how = f"name it, as {SCHEME}{name.repository}/FILE"
        return replace(pinned, file=only_weights(files, str(name), how))
    if name.file not in files:
        known = [file for file in files if file.endswith(SUFFIX)]
        raise FileNotFoundError(
            f"{name}: expected {one_of(known) if known else 'a repository with weights'}, there "
            f"is no {name.file!r}"
        )
    return pinned


def _listed(name: HubName) -> tuple[str, list[str]]:
    """The commit of a name, and the files in it."""
    api = _hub().HfApi()
    try:
        with _told(name):
            info = api.model_info(name.repository, revision=name.revision, timeout=_PATIENCE)
            return info.sha, [file.rfilename for file in info.siblings or ()]
    except ConnectionError as error:
        kept = _cached(name)
        if not kept:
            raise
        # Which of them the hub would give is not known: nothing is taken in its place.
        raise ConnectionError(f"{error}; without it name {one_of(kept)}") from error


def _cached(name: HubName) -> list[str]:
    """Pinned names of what was downloaded from a repository before."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = [
        replace(
            name,
            revision=kept.commit_hash,
            file=file.file_path.relative_to(kept.snapshot_path).as_posix(),
        )
        for repository in repositories
        if (repository.repo_type, repository.repo_id) == ("model", name.repository)
        for kept in repository.revisions
        for file in kept.files
    ]
    return sorted(str(own) for own in found if name.file in (None, own.file) and own.is_weights)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"names that begin with {SCHEME} need huggingface_hub: pip install 'jpmap-fast[hub]', "
            "or pip install huggingface_hub"
        ) from error
    return huggingface_hub


@contextmanager
def _told(name: HubName) -> Iterator[None]:
    """What goes wrong with the hub within it, in this package's words."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise ValueError(f"{name}: no name of a repository ({one_line(error)})") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{name}: the repository has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: the hub has no such repository, or it is private; with an account that may "
            "read it, log in by `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:  # is one of the next kind too
        raise _unreachable(name, error.__cause__ or error) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{name}: the repository has no such file") from error
    except Exception as error:  # each release has kinds of its own for a connection that fails
        raise _unreachable(name, error) from error


def _unreachable(name: HubName, error: BaseException) -> ConnectionError:
    return ConnectionError(
        f"{name}: the hub cannot be reached, or gave nothing ({type(error).__name__}: "
        f"{one_line(error)})"
    )
