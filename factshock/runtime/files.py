"""Opening text as others write it, and writing files that are whole or absent.

Text is UTF-8, with or without a byte order mark, its lines ended in any of the usual ways, and
compressed where the file's name ends in one of COMPRESSIONS.
"""

import bz2
import codecs
import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import glob
import gzip
import importlib
import io
import lzma
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TextIO, TypeAlias, cast

from factshock.runtime import processes
from factshock.runtime.errors import UserError

if TYPE_CHECKING:
  from _typeshed import ReadableBuffer, WriteableBuffer

Path: TypeAlias = str | os.PathLike[str]

LONGEST_LINE = 1 << 23  # characters: of what is longer no more is read
LONGEST_DOCUMENT = 1 << 26  # of texts: the longest books have some ten million
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
LISTED_COMPRESSIONS = ", ".join(COMPRESSIONS[:-1]) + f" or {COMPRESSIONS[-1]}"  # in errors
# What a file that is not text begins with, and what it is then.
_MAGIC = {
  b"\x1f\x8b": "gzipped: name it .gz",
  b"BZh": "compressed: name it .bz2",
  b"\xfd7zXZ": "compressed: name it .xz",
  b"\x28\xb5\x2f\xfd": "compressed: name it .zst",
  b"\xff\xfe": "UTF-16, not UTF-8: convert it",
  b"\xfe\xff": "UTF-16, not UTF-8: convert it",
  b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as .csv",
  b"PAR1": "parquet: name it .parquet",
}

_READING_ERRORS = (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError)

TEMPORARY = ".writing-"  # before the names of files that are being written
_PIECE = 1 << 21  # bytes that are written at a time past the page cache,
_BLOCK = 1 << 12  # in multiples of this
_LINES = 1 << 8  # after how many it is told how far a file is read
_BATCH = 1 << 18  # characters of lines that are read at a time
# Who is told how many bytes of a file are read, by its path.
_followers: dict[str, Callable[[int], None]] = {}


def compression(path: Path) -> str:
  """Returns the ending of a file's name that says how it is compressed, or nothing."""
  name = str(path)
  return next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")


def with_compressions(*endings: str) -> tuple[str, ...]:
  """Returns endings of names, each as it is and with each compression's behind it."""
  return tuple(ending + further for ending in endings for further in ("", *COMPRESSIONS))


def matching(pattern: Path, *parts: str) -> list[str]:
  """Returns the files that a glob pattern names, sorted.

  A path where there is such a file is that file, whatever characters it holds.

  Args:
    pattern: a pattern; where `parts` follow it is a folder, to the letter.
    *parts: pattern below that folder.
  """
  path = str(pattern)
  if parts:
    path = os.path.join(glob.escape(path), *parts)
  elif os.path.isfile(path):
    return [path]
  return sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))


def open_text(path: Path) -> TextIO:
  """Opens a UTF-8 text file for reading, unpacked where its name says that it is compressed.

  A byte order mark at its beginning is no part of the text.
  """
  try:
    return io.TextIOWrapper(_open_unpacked(path), encoding="utf-8-sig")
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
  """Returns the whole text of a file, its lines ended by newlines.

  Raises:
    UserError: as `lines`; longer than LONGEST_DOCUMENT.
  """
  try:
    with open_text(path) as file:
      text = file.read(LONGEST_DOCUMENT + 1)
  except _READING_ERRORS as error:
    raise _reading_error(path, error, "") from error
  if len(text) > LONGEST_DOCUMENT:
    raise UserError(f"{path}: expected at most {LONGEST_DOCUMENT:,} characters, got more")
  return text


@contextlib.contextmanager
def followed(path: Path, tell: Callable[[int], None]) -> Iterator[None]:
  """Tells how many bytes of a file `lines` has read, as they lie on the disk, while it lasts."""
  _followers[str(path)] = tell
  try:
    yield
  finally:
    del _followers[str(path)]


def _tell_position(file: TextIO, tell: Callable[[int], None]) -> None:
  """Tells how far a file, compressed or not, is read; nothing where that cannot be known."""
  with contextlib.suppress(OSError):  # io.UnsupportedOperation, too
    tell(os.lseek(file.fileno(), 0, os.SEEK_CUR))


def lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, str]]:
  """Yields (line number from 1, line without its newline) of a text file, compressed or not.

  Args:
    path: the file.
    longest: characters that a line may have; no more of it is held in memory.

  Raises:
    UserError: the file is missing, is not UTF-8, its compressed data are cut short, or a line is
      too long; names the line.
  """
  line_number = 0
  tell = _followers.get(str(path))
  try:
    with open_text(path) as file:
      read_line = functools.partial(file.readline, longest + 1)
      for line_number, line in enumerate(iter(read_line, ""), 1):
        if len(line) > longest:
          raise too_long(f"{path}:{line_number}", longest)
        if tell and line_number % _LINES == 0:
          _tell_position(file, tell)
        yield line_number, line.rstrip("\r\n")
  except _READING_ERRORS as error:
    raise _reading_error(path, error, f" after line {line_number}") from error


class Span(NamedTuple):
  """Part of a file that is not compressed.

  Attributes:
    start: where it begins, in bytes: a line does there.
    end: where it ends; None for the end of the file.
    line: number of its first line.
  """

  start: int = 0
  end: int | None = None
  line: int = 1


_WHOLE = Span()


def line_batches(
  path: Path,
  longest: int = LONGEST_LINE,
  span: Span = _WHOLE,
) -> Iterator[tuple[int, list[str]]]:
  """Yields (number of the first, lines without their newlines), many of `lines` at a time.

  Args:
    path: the file, which can be read twice.
    longest: characters that a line may have.
    span: the part of it to read.

  Raises:
    UserError: as `lines`, after the same line.
  """
  number = span.line
  try:
    for batch in _whole_lines(path, longest, span):
      yield number, batch
      number += len(batch)
  except _TroubleError:
    # Line by line it is known what stands before the trouble, and where that is.
    for line_number, line in lines(path, longest):
      if line_number >= number:
        yield line_number, [line]


def middle(path: Path) -> int:
  """Returns a byte about the middle of a file at which a line begins; else its end."""
  size = os.path.getsize(path)
  with open(path, "rb") as file:
    file.seek(size // 2)
    line = file.readline(LONGEST_LINE)
    return file.tell() if line.endswith(b"\n") else size


class _TroubleError(Exception):
  """A file cannot be read on."""


class _SpanBytes(io.RawIOBase):
  """Bytes of a part of a file."""

  def __init__(self, path: Path, span: Span) -> None:
    self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with this
    self._file.seek(span.start)
    end = os.path.getsize(path) if span.end is None else span.end
    self._left = end - span.start

  def readable(self) -> bool:
    """Returns that it can be read."""
    return True

  def readinto(self, buffer: "WriteableBuffer") -> int:
    """Reads bytes of the part; 0 at its end."""
    count = self._file.readinto(memoryview(buffer)[: self._left]) or 0
    self._left -= count
    return count

  def fileno(self) -> int:
    """Returns the descriptor of the file."""
    return self._file.fileno()

  def close(self) -> None:
    """Closes the file."""
    super().close()
    self._file.close()


def _open_span(path: Path, span: Span) -> TextIO:
  if span == _WHOLE:
    return open_text(path)
  raw = io.BufferedReader(_SpanBytes(path, span))
  return io.TextIOWrapper(raw, encoding="utf-8" if span.start else "utf-8-sig")


def _whole_lines(
  path: Path,
  longest: int,
  span: Span,
) -> Iterator[list[str]]:
  """Yields lists of lines without their newlines; a _TroubleError says no more than that."""
  tell = None if span.start else _followers.get(str(path))
  rest = ""
  with _open_span(path, span) as file:
    # Of a batch that is no longer than a line may be the first line alone can be too long.
    while text := _read_batch(file, min(_BATCH, longest)):
      batch = (rest + text).split("\n")
      rest = batch.pop()
      if len(rest) > longest or (batch and len(batch[0]) > longest):
        raise _TroubleError
      if tell:
        _tell_position(file, tell)
      yield batch
  if rest:
    yield [rest]


def _read_batch(file: TextIO, size: int) -> str:
  try:
    return file.read(size)
  except _READING_ERRORS as error:
    raise _TroubleError from error


def _reading_error(
  path: Path,
  error: Exception,
  where: str,
) -> UserError:
  """Returns what went wrong in reading a text file as an error that names it."""
  if isinstance(error, UnicodeDecodeError):
    try:
      return not_utf8(path, error)
    except _READING_ERRORS as broken:  # compressed data that are broken before that byte
      error = broken
  if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
    return UserError(f"{path}: reading failed{where}: {error}")
  form = {".gz": "gzip", ".bz2": "bzip2"}.get(compression(path), "compressed")
  return UserError(f"{path}: the {form} data are broken{where}: {error}")


def not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
  """Returns the error of a file that is not UTF-8: its first bad byte, and the line of that.

  Args:
    path: the file; it is read again up to that byte, as decoders work on pieces of unknown place.
    error: of the decoder, for a file that can be read but once.
  """
  located = _first_bad_byte(path) if os.path.isfile(path) else None
  if located is None:
    byte = error.object[error.start]
    return UserError(
      f"{path}: expected UTF-8 text, got the byte {byte:#04x}; convert the file to UTF-8"
    )
  line_number, position, byte, start = located
  advice = "convert the file to UTF-8"
  for magic, kind in _MAGIC.items():
    if start.startswith(magic):
      advice = f"it is {kind}"
  return UserError(
    f"{path}:{line_number}: expected UTF-8 text, got the byte {byte:#04x} at byte {position} of "
    f"the file; {advice}"
  )


def _first_bad_byte(path: Path) -> tuple[int, int, int, bytes] | None:
  """Returns line, position and value of a file's first byte that is no UTF-8, and its beginning."""
  decoder = codecs.getincrementaldecoder("utf-8")()
  start = b""
  line_number = 1
  position = 0  # of what the decoder has not taken yet
  ended_with_return = False
  with _open_unpacked(path) as file:
    while True:
      piece = file.read(_PIECE)
      start = start or piece[:8]
      held = decoder.getstate()[0]
      try:
        decoder.decode(piece, final=not piece)
      except UnicodeDecodeError as error:
        good = piece[: max(0, error.start - len(held))]
        line_number += _line_ends(good, ended_with_return)
        return line_number, position + error.start, error.object[error.start], start
      if not piece:
        return None
      line_number += _line_ends(piece, ended_with_return)
      ended_with_return = piece.endswith(b"\r")
      position += len(held) + len(piece) - len(decoder.getstate()[0])


def _line_ends(data: bytes, after_return: bool) -> int:
  """Returns how many lines end in bytes: by newline, carriage return, or both as one."""
  ends = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
  return ends - (after_return and data.startswith(b"\n"))


def _open_unpacked(path: Path) -> IO[bytes]:
  """Opens the bytes of a file, unpacked where its name says that it is compressed."""
  ending = compression(path)
  if ending == ".gz":
    return cast(IO[bytes], gzip.open(path, "rb"))
  if ending == ".bz2":
    return cast(IO[bytes], bz2.open(path, "rb"))
  if ending == ".xz":
    return cast(IO[bytes], lzma.open(path, "rb"))
  if ending == ".zst":
    pyarrow = importlib.import_module("pyarrow")  # no types, and a fifth of a second to import
    packed = open(path, "rb")  # noqa: SIM115 - closed with what is unpacked
    return _Unpacked(pyarrow.input_stream(packed, compression="zstd"), packed)
  return open(path, "rb")


class _Unpacked(io.BufferedReader):
  """Unpacked bytes of a file, whose descriptor says how far it is read."""

  def __init__(self, unpacked: Any, packed: IO[bytes]) -> None:
    super().__init__(unpacked)
    self._packed = packed

  def fileno(self) -> int:
    """Returns the descriptor of the packed file."""
    return self._packed.fileno()

  def close(self) -> None:
    """Closes both."""
    super().close()
    self._packed.close()


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
    path: its folder is made where it is missing; a name ending in one of COMPRESSIONS is
      compressed (gzip with no time stamp, so that equal content gives equal bytes).
    binary: yields a file of bytes, not of text (UTF-8).
    by_all: every process writes, as to a folder of its own.

  Raises:
    UserError: the file cannot be written.
  """
  path = str(path)
  ending = compression(path)
  if not (processes.is_first() or by_all):
    with open(os.devnull, "wb") as raw, _layered(raw, ending, binary) as file:
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
      with _layered(raw, ending, binary) as file:
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
  ending: str,
  is_binary: bool,
) -> Iterator[IO[Any]]:
  """Puts compression and text encoding, where asked for, around a file of bytes."""
  with contextlib.ExitStack() as stack:
    file: Any = raw
    if ending:
      file = stack.enter_context(_packed(raw, ending))
    if is_binary:
      yield file
      return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="\n", write_through=False)
    yield text
    text.flush()
    text.detach()


def _packed(raw: IO[bytes], ending: str) -> Any:
  """Returns a file that compresses what is written to it into another, which stays open."""
  if ending == ".gz":
    return gzip.GzipFile("", "wb", 6, raw, mtime=0)
  if ending == ".bz2":
    return bz2.BZ2File(raw, "wb")
  if ending == ".xz":
    return lzma.LZMAFile(raw, "wb")
  pyarrow = importlib.import_module("pyarrow")
  kept_open = os.fdopen(os.dup(raw.fileno()), "wb", buffering=0)  # pyarrow closes what it is given
  return pyarrow.CompressedOutputStream(pyarrow.PythonFile(kept_open, mode="w"), "zstd")


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
