"""Opening text that may be gzipped, and writing files that are whole or absent."""

import concurrent.futures
import contextlib
import errno
import fcntl
import gzip
import io
import mmap
import os
import tempfile
import zlib

from factshock.runtime import processes
from factshock.runtime.errors import UserError

_PIECE = 1 << 21  # bytes that are written at a time past the page cache,
_BLOCK = 1 << 12  # in multiples of this


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
      raise UserError(
        f"{path}:{number + 1}: expected UTF-8 text, got the byte "
        f"{error.object[error.start]:#04x}; convert the file to UTF-8"
      ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise UserError(f"{path}: the gzip data are broken after line {number}: {error}") from error
    except OSError as error:
      raise UserError(f"{path}: reading failed after line {number}: {error}") from error


@contextlib.contextmanager
def atomic_write(path, binary=False, by_all=False):
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
def direct_write(path):
  """Context manager: write(bytes) to a new file, which goes past the page cache where the file system can, and is on the disk at the end.

  For gigabytes that are not read again soon: the kernel's copy of them takes processors from training, and drives out what is read.

  Raises:
    OSError: the disk is full, or fails; the file is then to be removed.
  """
  descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _past_cache(path), 0o666)
  pieces = [
    mmap.mmap(-1, _PIECE),
    mmap.mmap(-1, _PIECE),
  ]  # begin on a page, as such writing asks; one is filled while the other is written
  filled = written = 0
  try:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      before = pool.submit(int)

      def send(size):
        nonlocal before, filled
        before.result()
        before = pool.submit(_write_all, descriptor, pieces[0], size)
        filled = 0
        pieces.reverse()

      def write(data):
        nonlocal filled, written
        left = memoryview(data).cast("B")
        written += len(left)
        while left:
          taken = left[: _PIECE - filled]
          pieces[0][filled : filled + len(taken)] = taken
          filled = filled + len(taken)
          left = left[len(taken) :]
          if filled == _PIECE:
            send(_PIECE)

      yield write
      send(-(-filled // _BLOCK) * _BLOCK)
      before.result()
    os.ftruncate(descriptor, written)
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
    for piece in pieces:
      piece.close()


def _past_cache(path):
  """The flag that asks for it, 0 where the system or the file system of a path has none."""
  flag = getattr(os, "O_DIRECT", 0)
  try:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o666))
  except OSError as error:
    if error.errno != errno.EINVAL:
      raise
    return 0
  return flag


def _write_all(descriptor, piece, size):
  """Writes the first bytes of a piece; through the cache from here on where the file system wants other sizes."""
  with memoryview(piece) as view, view[:size] as left:
    done = 0
    while done < size:
      try:
        done += os.write(descriptor, left[done:])
      except OSError as error:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        if error.errno != errno.EINVAL or not flags & getattr(os, "O_DIRECT", 0):
          raise
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)


@contextlib.contextmanager
def _layers(raw, gzipped, binary):
  with contextlib.ExitStack() as stack:
    file = raw
    if gzipped:
      file = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
    if binary:
      yield file
      return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=False)
    yield text
    text.flush()
    text.detach()
