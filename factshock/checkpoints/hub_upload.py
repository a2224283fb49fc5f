"""Uploads a written model to the HuggingFace hub; the token is the environment's or the login's."""

import os
from typing import Any

from factshock.checkpoints import mix_record
from factshock.runtime.errors import UserError
from factshock.types import FilePath

# It names paths of this machine; the card says what was mixed.
_NOT_UPLOADED = [mix_record.NAME]


class Upload:
  """Uploads a folder to a repository on the hub; made, and so checked, before hours of work."""

  def __init__(self, repository: str) -> None:
    """Checks a repository's name and that there is a login; uploads nothing.

    Args:
      repository: "org/name".

    Raises:
      UserError: another name, no login, or no answer from the hub.
    """
    import huggingface_hub.utils  # noqa: PLC0415  # slow to import, and needed for the hub alone

    self._repository = repository
    if repository.count("/") != 1:
      raise UserError(f"--push_to_hub: expected org/name, got {repository!r}")
    try:
      huggingface_hub.utils.validate_repo_id(repository)
    except ValueError as error:
      raise UserError(f"--push_to_hub: expected org/name, got {repository!r}: {error}") from error
    self._hub = huggingface_hub.HfApi(library_name="factshock")
    try:
      self._hub.whoami()
    except Exception as error:  # of many types: no token, a stale one, no network
      raise UserError(
        f"--push_to_hub={repository}: no login at the HuggingFace hub ({_words(error)}); run "
        "`hf auth login`, or set HF_TOKEN to a token that may write"
      ) from error

  def push(self, folder: FilePath) -> str:
    """Uploads a model's folder as one commit; a repository that is not there is made, private.

    Args:
      folder: that was written.

    Returns:
      What was done, in words: where it is, and whether it was there before.

    Raises:
      UserError: the hub refuses it; the folder stays as it is.
    """
    name = self._repository
    try:
      was_there = self._hub.repo_exists(name)
      self._hub.create_repo(name, private=None if was_there else True, exist_ok=True)
      done: Any = self._hub.upload_folder(
        repo_id=name,
        folder_path=os.fspath(folder),
        commit_message=f"Upload {os.path.basename(os.path.normpath(folder))} by factshock",
        ignore_patterns=_NOT_UPLOADED,
      )
    except Exception as error:  # of many types: no right to write, no network, no room
      raise UserError(
        f"--push_to_hub={name}: {_words(error)}; the model is written to {folder}: upload it by "
        f"`hf upload {name} {folder}`"
      ) from error
    state = "a new commit of the repository that was there" if was_there else "a new, private one"
    return f"uploaded {folder} to {name}, {state}: {done.commit_url}"


def _words(error: Exception) -> str:
  return " ".join(str(error).split())[:200] or type(error).__name__
