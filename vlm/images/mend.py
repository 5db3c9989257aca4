"""Files whose pixels are sound and which Pillow refuses for something else: copies that it reads."""

from __future__ import annotations

import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"

# The chunks of a PNG that decide how it looks: size, palette, transparency, pixels, and the EXIF orientation
_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")


def copies(data: bytes) -> list[bytes]:
    """Copies of a file without what Pillow may have refused; the pixels are sound where all of them give the same.

    A PNG is left without its texts and profiles, which may be large (Pillow stops at 1 MiB) or damaged. A JPEG gets
    an end marker, after bits that cannot all be right where pixels are missing.
    """
    if data.startswith(PNG):
        return [_pixels_of_png(data)]
    if data.startswith(JPEG):
        # A missing code begins with one bit or the other, so that pixels which need it cannot be the same in both.
        return [data.rstrip(b"\xff") + bits * 64 + b"\xff\xd9" for bits in (b"\x55", b"\xaa")]
    return []


def _pixels_of_png(data: bytes) -> bytes:
    kept, place = [PNG], len(PNG)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        chunk = data[place:end]
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if name in _CHUNKS and (sound or name != b"eXIf"):  # other damage is for Pillow to find
            kept.append(chunk)
        place = end
    return b"".join(kept)
