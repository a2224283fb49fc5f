"""Opening text that may be gzipped, and writing files that are whole or absent."""

import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import gzip
import io
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, TextIO, TypeAlias

from factshock.runtime import processes
from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  from _typeshed import ReadableBuffer

Path: TypeAlias = str | os.PathLike[str]

LONGEST_LINE = 1 << 23  # characters: of what is longer no more is read
LONGEST_DOCUMENT = 1 << 26  # of texts: the longest books have some ten million

TEMPORARY = ".writing-"  # before the names of files that are being written
_PIECE = 1 << 21  # bytes that are written at a time past the page cache,
_BLOCK = 1 << 12  # in multiples of this


def open_text(path: Path) -> TextIO:
  """Opens a UTF-8 text file for reading, gunzipping it where its name ends in .gz."""
  try:
    if str(path).endswith(".gz"):
      return gzip.open(path, "rt", encoding="utf-8")  # pyright: ignore[reportReturnType] - is one
    return open(path, encoding="utf-8")
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
  """Yields (line number from 1, line without its newline) of a text file, gzipped or not.

  Args:
    path: the file.
    longest: characters that a line may have; no more of it is held in memory.

  Raises:
    UserError: the file is missing, is not UTF-8, its gzip stream is cut short, or a line is too
      long; names the line.
  """
  line_number = 0
  with open_text(path) as file:
    try:
      read_line = functools.partial(file.readline, longest + 1)
      for line_number, line in enumerate(iter(read_line, ""), 1):
        if len(line) > longest:
          raise too_long(f"{path}:{line_number}", longest)
        yield line_number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
      raise UserError(
        f"{path}:{line_number + 1}: expected UTF-8 text, got the byte "
        f"{error.object[error.start]:#04x}; convert the file to UTF-8"
      ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
      raise UserError(
        f"{path}: the gzip data are broken after line {line_number}: {error}"
      ) from error
    except OSError as error:
      raise UserError(f"{path}: reading failed after line {line_number}: {error}") from error


def too_long(location: str, longest: int) -> UserError:
  """Returns the error of a line of more characters or bytes than are held in memory."""
  return UserError(
    f"{location}: expected a line of at most {longest:,} characters, got a longer one; is it a "
    "text file with a row or a document a line?"
  )


@contextlib.contextmanager
def atomic_write(path: Path, binary: bool = False, by_all: bool = False) -> Iterator[IO[Any]]:
  """Opens a file to write, which appears at `path` only when all was written.

  On any error `path` is left as it was. Of several processes that work as one the first alone
  writes; what the others write is dropped.

  Args:
    path: its folder is made where it is missing; a name ending in .gz is gzipped (with no time
      stamp, so that equal content gives equal bytes).
    binary: yields a file of bytes, not of text (UTF-8).
    by_all: every process writes, as to a folder of its own.

  Raises:
    UserError: the file cannot be written.
  """
  path = str(path)
  is_gzipped = path.endswith(".gz")
  if not (processes.is_first() or by_all):
    with open(os.devnull, "wb") as raw, _layered(raw, is_gzipped, binary) as file:
      yield file
    return
  folder = os.path.dirname(path) or "."
  temporary = None
  try:
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
    with os.fdopen(descriptor, "wb") as raw:
      # Says to who clears up after killed processes that this one lives; some disks have no locks.
      with contextlib.suppress(OSError):
        fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
      with _layered(raw, is_gzipped, binary) as file:
        yield file
      raw.flush()
      os.fsync(raw.fileno())
    os.chmod(temporary, 0o666 & ~_umask())
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
  finally:
    if temporary and os.path.exists(temporary):
      os.unlink(temporary)


def _umask() -> int:
  """Returns the permissions that new files don't get."""
  umask = os.umask(0)
  os.umask(umask)
  return umask


@contextlib.contextmanager
def _layered(
  raw: IO[bytes],
  is_gzipped: bool,
  is_binary: bool,
) -> Iterator[IO[Any]]:
  """Puts gzip and text encoding, where asked for, around a file of bytes."""
  with contextlib.ExitStack() as stack:
    file: Any = raw
    if is_gzipped:
      file = stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
    if is_binary:
      yield file
      return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=False)
    yield text
    text.flush()
    text.detach()


@contextlib.contextmanager
def direct_write(path: Path) -> "Iterator[Callable[[ReadableBuffer], None]]":
  """Yields `write(data)` to a new file, past the page cache where the file system can do that.

  All is on the disk at the end. For gigabytes that are not read again soon: the kernel's copy of
  them takes processors from training, and drives out what is read.

  Args:
    path: the file; its folder must exist.

  Raises:
    OSError: the disk is full, or fails; the file is then to be removed.
  """
  flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _direct_flag(path)
  descriptor = os.open(path, flags, 0o666)
  writer = _PieceWriter(descriptor)
  try:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      writer.pool = pool
      yield writer.write
      writer.finish()
    os.ftruncate(descriptor, writer.written)
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
    writer.close()


class _PieceWriter:
  """Writes bytes in pieces: one is filled while the other is written."""

  def __init__(self, descriptor: int) -> None:
    self.descriptor = descriptor
    self.pool: concurrent.futures.Executor | None = None
    self.written = 0  # bytes in all
    self._filled = 0  # bytes of the first piece
    # Anonymous maps begin on a page, as writing past the page cache asks.
    self._pieces = [mmap.mmap(-1, _PIECE), mmap.mmap(-1, _PIECE)]
    self._before: concurrent.futures.Future[None] | None = None  # the write that is under way

  def write(self, data: "ReadableBuffer") -> None:
    """Adds bytes to the file."""
    left = memoryview(data).cast("B")
    self.written += len(left)
    while left:
      taken = left[: _PIECE - self._filled]
      self._pieces[0][self._filled : self._filled + len(taken)] = taken
      self._filled += len(taken)
      left = left[len(taken) :]
      if self._filled == _PIECE:
        self._send(_PIECE)

  def finish(self) -> None:
    """Writes what is left, in whole blocks, and waits."""
    self._send(-(-self._filled // _BLOCK) * _BLOCK)
    if self._before:
      self._before.result()

  def close(self) -> None:
    """Frees the pieces."""
    for piece in self._pieces:
      piece.close()

  def _send(self, size: int) -> None:
    """Writes the first bytes of the filled piece in the thread; turns to the other piece."""
    assert self.pool is not None
    if self._before:
      self._before.result()
    self._before = self.pool.submit(_write_all, self.descriptor, self._pieces[0], size)
    self._filled = 0
    self._pieces.reverse()


def _direct_flag(path: Path) -> int:
  """Returns the flag of `os.open` for writing past the page cache.

  It is 0 where the system, or the file system of the path, has none.
  """
  flag = getattr(os, "O_DIRECT", 0)
  try:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o666))
  except OSError as error:
    if error.errno != errno.EINVAL:
      raise
    return 0
  return flag


def _write_all(
  descriptor: int,
  piece: mmap.mmap,
  size: int,
) -> None:
  """Writes the first bytes of a piece.

  Goes through the page cache from here on where the file system wants other sizes.
  """
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
