"""Opening text that may be gzipped, and writing files that are whole or absent."""

import contextlib
import gzip
import os
import tempfile
import zlib

from factshock import processes
from factshock.console import UserError


def open_text(path):
  """Opens a UTF-8 text file for reading, gunzipping it when its name ends in .gz."""
  try:
    if str(path).endswith(".gz"):
      return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def lines(path):
  """Yields (line number from 1, line without its newline) of a text file, gzipped or not.

  Raises:
    UserError: the file is missing, is not UTF-8, or its gzip stream is cut short; names the line.
  """
  number = 0
  with open_text(path) as file:
    try:
      for number, line in enumerate(file, 1):
        yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
      raise UserError(f"{path}:{number + 1}: expected UTF-8 text, got the byte "
                      f"{error.object[error.start]:#04x}; convert the file to UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise UserError(f"{path}: the gzip data are broken after line {number}: {error}") from error
    except OSError as error:
      raise UserError(f"{path}: reading failed after line {number}: {error}") from error


@contextlib.contextmanager
def writing(path, binary=False, by_all=False):
  """Context manager: a file to write, which appears at `path` only when all was written.

  The folder is made where it is missing; a name ending in .gz is gzipped (with no time stamp, so
  that equal content gives equal bytes). On any error `path` is left as it was. Of several processes that
  work as one the first alone writes; what the others write is dropped, but for a file `by_all`.
  """
  path = str(path)
  if not (processes.is_first() or by_all):
    with open(os.devnull, "wb") as raw, _layers(raw, path.endswith(".gz"), binary) as file:
      yield file
    return
  folder = os.path.dirname(path) or "."
  temporary = None
  try:
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".writing-", dir=folder)
    with os.fdopen(descriptor, "wb") as raw:
      with _layers(raw, path.endswith(".gz"), binary) as file:
        yield file
      raw.flush()
      os.fsync(raw.fileno())
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
  finally:
    if temporary and os.path.exists(temporary):
      os.unlink(temporary)


@contextlib.contextmanager
def _layers(raw, gzipped, binary):
  with contextlib.ExitStack() as stack:
    file = raw
    if gzipped:
      file = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
    if binary:
      yield file
      return
    import io
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=False)
    yield text
    text.flush()
    text.detach()
