"""Tell from a container's own lengths whether its file is cut off."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def missing_bytes(path: Path, container: str) -> int:
    """Return how many bytes a file lacks at its end, at least, by what its container announces; 0 where it says none.

    Args:
        container: FFmpeg's name of the format. MP4 and its kin, Matroska, WebM, AVI and ASF announce their
            lengths; a transport stream consists of packets of one length; GIF and Ogg mark their ends.
    """
    ends: dict[str, Callable[[BinaryIO, int], int]] = {
        "mp4": _mp4_end,
        "matroska": _matroska_end,
        "avi": _avi_end,
        "mpegts": _mpegts_end,
        "asf": _asf_end,
        "gif": _gif_end,
        "ogg": _ogg_end,
    }
    size = path.stat().st_size
    for name, announced_end in ends.items():
        if name in container.split(","):
            with path.open("rb") as file:
                return max(0, announced_end(file, size) - size)
    return 0


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Follow the boxes of the top level (ISO/IEC 14496-12, section 4.2)."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: as far as the file goes
            return size
        end += length
    return end


def _avi_end(file: BinaryIO, size: int) -> int:
    """Follow the RIFF chunks, of which files above 1 GiB have several."""
    end = 0
    while end + 12 <= size:
        file.seek(end)
        header = file.read(12)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] != b"RIFF" or not length:
            return size
        end += 8 + length
    # A padding byte may be left out at the end.
    return end


def _mpegts_end(file: BinaryIO, size: int) -> int:
    """Return the end of the last packet: of 188 bytes, of 192 with a time before it, or of 204 with a checksum."""
    file.seek(0)
    head = file.read(1024)
    for length, sync in ((188, 0), (192, 4), (204, 0)):
        if all(head[at : at + 1] in (b"G", b"") for at in range(sync, len(head), length)):
            return -(-size // length) * length
    return size


def _asf_end(file: BinaryIO, size: int) -> int:
    """Return the length in the file properties object (ASF specification, section 3.2)."""
    file.seek(0)
    head = file.read(1 << 16)
    start = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    return size if start < 0 else int.from_bytes(head[start + 40 : start + 48], "little") or size


def _gif_end(file: BinaryIO, size: int) -> int:
    """Expect the trailer, byte 0x3B (https://www.w3.org/Graphics/GIF/spec-gif89a.txt)."""
    file.seek(max(0, size - 16))
    return size if file.read().rstrip(b"\0").endswith(b"\x3b") else size + 1


def _ogg_end(file: BinaryIO, size: int) -> int:
    """Expect that the last page ends a stream (https://www.rfc-editor.org/rfc/rfc3533, section 6)."""
    file.seek(max(0, size - (1 << 17)))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return size + 27 - len(page)
    segments = page[27 : 27 + page[26]]
    length = 27 + page[26] + sum(segments)
    return size + max(length - len(page), 0 if page[5] & 4 else 1)


def _matroska_end(file: BinaryIO, size: int) -> int:
    """Return the end of the last element of the top level (https://www.rfc-editor.org/rfc/rfc8794, section 4)."""
    end = 0
    while end + 2 <= size:
        file.seek(end)
        _, id_bytes, _ = _variable_int(file)
        length, length_bytes, unknown = _variable_int(file)
        if unknown:
            return size
        end += id_bytes + length_bytes + length
    return end


def _variable_int(file: BinaryIO) -> tuple[int, int, bool]:
    """Read an EBML number; return its value, its length in bytes, and whether it stands for "unknown"."""
    first = file.read(1)[:1] or b"\0"
    length = 9 - first[0].bit_length()
    if length > 8:
        return 0, 1, True
    value = (first[0] & ((1 << (8 - length)) - 1)) << 8 * (length - 1) | int.from_bytes(file.read(length - 1), "big")
    return value, length, value == (1 << 7 * length) - 1
