"""The zip file: written the same each time, and read as the plainest zip only.

`zipfile` is made to read whatever can be read: data before and behind, two directories,
local headers that say otherwise than the directory. Two readers may then see two
archives in one file. Here a file is a bundle if its members lie one behind the other,
then the directory, then its end, and nothing else; anything more is refused by name.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from speechbrain_ext.files import atomic_path
from speechbrain_ext.sharing.bundle.contents import MAX_TEXT, check_size
from speechbrain_ext.sharing.bundle.errors import BundleError, printable
from speechbrain_ext.sharing.bundle.names import (
    MANIFEST,
    check_distinct,
    check_known,
    check_name,
)

MAX_MEMBERS = 1000
MAX_BYTES = 4 * 2**30 - 2**20  # of all members together: no zip64
#: Largest ratio that is accepted where a member is larger than a MiB; deflate alone
#: reaches 1000. What packs better is stored as it is.
MAX_RATIO = 100
_FREE = 2**20
_BLOCK = 2**20

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_UTF8, _ENCRYPTED, _STREAMED = 0x800, 0x2041, 0x8
#: Bits of the speed that a compressor was set to; they say nothing.
_HARMLESS_FLAGS = _UTF8 | 0x6


@dataclass(frozen=True)
class Member:
    """A file in the archive: where its data lie, and what they shall come to."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    offset: int


def write_archive(path: str | os.PathLike, members: Mapping[str, bytes]) -> None:
    """Write members in the order of their names, with fixed times and modes.

    Arguments
    ---------
    path : str or PathLike
        The file; whole or as it was.
    members : Mapping
        Name -> bytes.

    Raises
    ------
    BundleError
        If they are more than a reader would take.
    """
    if sum(map(len, members.values())) > MAX_BYTES or len(members) > MAX_MEMBERS:
        raise BundleError(
            f"pack: a bundle holds at most {MAX_MEMBERS} files and "
            f"{MAX_BYTES / 2**30:.1f} GiB; share the recipe alone: --no_result"
        )
    with atomic_path(path) as draft, zipfile.ZipFile(draft, "w") as archive:
        for name in sorted(members):
            data = members[name]
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, wherever it is written
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            small = len(zlib.compress(data, 9)) * MAX_RATIO
            deflate = len(data) <= _FREE or small >= len(data)
            info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
            archive.writestr(info, data, compresslevel=9)


class Archive:
    """A bundle's file, open for reading; checked before anything is inflated.

    Arguments
    ---------
    path : str or PathLike
        The file.

    Attributes
    ----------
    members : dict
        Name -> `Member`, in the order of the file.

    Raises
    ------
    BundleError
        If the file is anything but a plain archive of what a bundle can hold.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            # A pipe would keep us waiting, a device never end.
            raise BundleError(f"bundle {printable(self.path)}: is a folder or device")
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115  (closed by `close`)
        except OSError as error:
            raise BundleError(
                f"bundle {printable(self.path)}: can't be read: {error.strerror}"
            ) from None
        try:
            self.members = {m.name: m for m in self._directory()}
        except BundleError as error:
            self.close()
            raise self.refusal(error) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def refusal(self, error: Exception) -> BundleError:
        """Name the bundle in an error about its inside."""
        return BundleError(
            f"bundle {printable(self.path)}: {error}\n"
            "  Nothing of it was used. Next: get it again, and ask its author for the "
            "digest"
        )

    # -- the frame ---------------------------------------------------------------

    def _directory(self) -> list[Member]:
        size = os.fstat(self._file.fileno()).st_size
        count, length, start = self._end(size)
        raw = self._exactly(start, length)
        entries, position = [], 0
        for _ in range(count):
            if len(raw) - position < _CENTRAL.size:
                raise BundleError("its directory is cut off")
            member, facts, position = _entry(raw, position)
            entries.append((member, facts))
        if position != length:
            raise BundleError("its directory holds more than it says")
        names = [member.name for member, _ in entries]
        check_distinct(names)
        _check_sizes([member for member, _ in entries])
        for member, _ in entries:
            check_known(member.name)
            check_size(member.name, member.size)
        if MANIFEST not in names:
            raise BundleError(f"holds no {MANIFEST}: no bundle of speechbrain-ext pack")
        return list(self._checked_against_headers(entries, start))

    def _end(self, size: int) -> tuple[int, int, int]:
        """Read how many members there are; also length and place of the directory."""
        tail = self._exactly(max(0, size - 65557), min(size, 65557))
        found = tail.rfind(b"PK\5\6")
        if found < 0:
            raise BundleError("is no zip archive, or cut off")
        behind = len(tail) - found - _END.size
        if behind < 0:
            raise BundleError("is cut off in its last bytes")
        _, disk, first, here, count, length, start, comment = _END.unpack_from(
            tail, found
        )
        if behind:
            what = "a comment" if behind == comment else "data"
            raise BundleError(f"has {what} of {behind} bytes behind its end")
        if comment:
            raise BundleError("is cut off in a comment")
        if 0xFFFF in (here, count) or 0xFFFFFFFF in (length, start):
            raise BundleError("is a zip64 archive; a bundle is smaller")
        if (disk, first) != (0, 0) or here != count:
            raise BundleError("is one part of several")
        if count > MAX_MEMBERS:
            raise BundleError(f"has {count} members; at most {MAX_MEMBERS} can be")
        end = size - _END.size
        if start + length != end:
            raise BundleError(
                f"has {abs(end - start - length)} bytes that its directory does not "
                "name: two archives in one file, or hidden data"
            )
        return count, length, start

    def _checked_against_headers(
        self, entries: list[tuple[Member, tuple]], end: int
    ) -> Iterator[Member]:
        """Members with the place of their data; they follow each other without gaps."""
        position = 0
        for member, facts in sorted(entries, key=lambda pair: pair[0].offset):
            if member.offset != position:
                what = "overlaps another" if member.offset < position else "is not next"
                raise BundleError(
                    f"member '{printable(member.name)}' {what}: data between members "
                    "that nobody names, or the same data twice"
                )
            raw = self._exactly(position, _LOCAL.size)
            sign, _, *rest = _LOCAL.unpack(raw)
            flags, method, _, _, crc, packed, size, name_length, extra = rest
            if sign != b"PK\3\4":
                raise BundleError(
                    f"member '{printable(member.name)}' has no header where the "
                    "directory says"
                )
            name = self._exactly(position + _LOCAL.size, name_length)
            if (flags, method, crc, packed, size, name) != facts or extra:
                raise BundleError(
                    f"member '{printable(member.name)}' is something else in its own "
                    "header than in the directory"
                )
            offset = position + _LOCAL.size + name_length
            yield Member(member.name, member.method, member.crc, packed, size, offset)
            position = offset + packed
        if position != end:
            raise BundleError(
                f"has {abs(end - position)} bytes before its directory that no member "
                "holds"
            )

    def _exactly(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise BundleError("is cut off")
        return data

    # -- members -----------------------------------------------------------------

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a member, block by block, never more than declared.

        Raises
        ------
        BundleError
            If it comes to another size or checksum than declared.
        """
        member = self.members[name]
        total = crc = 0
        try:
            for block in self._inflated(member):
                total += len(block)
                if total > member.size:
                    raise BundleError(
                        f"member '{printable(name)}' holds more than the "
                        f"{member.size:,} bytes that it declares: a zip bomb"
                    )
                crc = zlib.crc32(block, crc)
                yield block
            if total != member.size:
                raise BundleError(
                    f"member '{printable(name)}' holds {total:,} bytes and declares "
                    f"{member.size:,}"
                )
            if crc != member.crc:
                raise BundleError(f"member '{printable(name)}' is damaged (CRC-32)")
        except BundleError as error:
            raise self.refusal(error) from None

    def read(self, name: str, limit: int = MAX_TEXT) -> bytes:
        """Return the bytes of a small member.

        Raises
        ------
        BundleError
            As `blocks`; if there is no such member, or it is larger than ``limit``.
        """
        if name not in self.members:
            raise self.refusal(BundleError(f"holds no {name}"))
        if self.members[name].size > limit:
            raise self.refusal(
                BundleError(f"member '{name}' has more than {limit:,} bytes")
            )
        return b"".join(self.blocks(name))

    def _inflated(self, member: Member) -> Iterator[bytes]:
        self._file.seek(member.offset)
        left = member.packed
        inflate = zlib.decompressobj(-15) if member.method else None
        while left:
            data = self._file.read(min(_BLOCK, left))
            if not data:
                raise BundleError("is cut off")
            left -= len(data)
            if inflate is None:
                yield data
                continue
            while data:
                try:
                    block = inflate.decompress(data, _BLOCK)
                except zlib.error as error:
                    raise BundleError(
                        f"member '{printable(member.name)}' can't be inflated: {error}"
                    ) from None
                data = inflate.unconsumed_tail
                if block:
                    yield block
                if inflate.eof:
                    break
            if inflate.eof:
                if left or inflate.unused_data:
                    raise BundleError(
                        f"member '{printable(member.name)}' has data behind its end"
                    )
                return
        if inflate is not None:
            # All is read, but a long repetition may still be on its way out.
            while block := inflate.decompress(b"", _BLOCK):
                yield block
            if not inflate.eof:
                raise BundleError(f"member '{printable(member.name)}' is cut off")


def _entry(raw: bytes, position: int) -> tuple[Member, tuple, int]:
    """Read a directory entry: member, what its header must repeat, where it ends."""
    fields = _CENTRAL.unpack_from(raw, position)
    sign, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    name_length, extra, comment, disk, _, attributes, offset = fields[10:]
    if sign != b"PK\1\2":
        raise BundleError("its directory is damaged")
    start = position + _CENTRAL.size
    raw_name = raw[start : start + name_length]
    if len(raw_name) != name_length:
        raise BundleError("its directory is cut off")
    try:
        name = raw_name.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise BundleError(f"member {raw_name[:60]!r} has a name that is no text") from (
            None
        )
    check_name(name)
    _check_kind(name, flags, method, attributes)
    if extra or comment or disk:
        raise BundleError(
            f"member '{printable(name)}' has an extra field or comment; a bundle has "
            "none"
        )
    member = Member(name, method, crc, packed, size, offset)
    facts = flags, method, crc, packed, size, raw_name
    return member, facts, start + name_length


def _check_kind(name: str, flags: int, method: int, attributes: int) -> None:
    mode = attributes >> 16
    fault = None
    if flags & _ENCRYPTED:
        fault = "is encrypted"
    elif flags & _STREAMED:
        fault = "tells its size only after its data"
    elif flags & ~_HARMLESS_FLAGS:
        fault = f"has flags that a bundle does not use ({flags:#06x})"
    elif method not in (0, 8):
        fault = f"is compressed by method {method}; stored and deflated are known"
    elif stat.S_ISLNK(mode):
        fault = "is a symbolic link"
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        fault = "is a device, pipe or folder"
    elif attributes & 0x10:
        fault = "is a folder; a bundle holds files only"
    if fault:
        raise BundleError(f"member '{printable(name)}' {fault}")


def _check_sizes(members: list[Member]) -> None:
    total = sum(member.size for member in members)
    if total > MAX_BYTES:
        raise BundleError(
            f"declares {total / 2**30:.1f} GiB; at most {MAX_BYTES / 2**30:.1f} can be"
        )
    for member in members:
        if member.method == 0 and member.packed != member.size:
            raise BundleError(
                f"member '{printable(member.name)}' is stored with two sizes"
            )
        if member.size > _FREE and member.size > MAX_RATIO * member.packed:
            raise BundleError(
                f"member '{printable(member.name)}' would grow from {member.packed:,} "
                f"to {member.size:,} bytes, more than {MAX_RATIO} times: a zip bomb"
            )
