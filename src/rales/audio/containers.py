"""Find how much sound an audio file really holds, from its content and not from its header alone.

Headers are wrong in ways that recorders, pipes and editors have in common: written before the length was known, never
filled in, counted with a few bytes too many, or absent. Decoders believe them, or guess. Each function here looks at
one family of containers and says what the header promises, what is there, and what a true header would say.
"""

import os
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, Literal, NamedTuple

Byteorder = Literal["little", "big"]

# Sizes that mean "not known when this was written": all bits set, or 2 GiB, or a little less for headers and whole
# frames (SoX subtracts 4 KiB, and 16 MiB in AIFF, others 36 to 44 bytes)
OPEN_32_BITS = (
    range(0x7F000000 - 64, 0x7F000000 + 65),
    range(0x7FFFF000 - 64, 0x80000000 + 65),
    range(0xFFFFF000 - 64, 0xFFFFFFFF + 1),
)
OPEN_64_BITS = (range(2**63 - 2**16, 2**64),)
FFMPEG_MAGIC = {  # (where, bytes) -> what it is; libsndfile reads none of them
    (4, b"ftyp"): "MP4",
    (0, b"#!AMR"): "AMR",
    (0, b"\x1aE\xdf\xa3"): "WebM or Matroska",
    (0, b"0&\xb2u\x8ef\xcf\x11"): "WMA",
    (0, b"\xff\xf1"): "AAC",
    (0, b"\xff\xf9"): "AAC",
}


def ffmpeg_kind(head: bytes) -> str:
    """First bytes of a file -> what it is, if only FFmpeg reads it; else ""."""
    return next((kind for (at, magic), kind in FFMPEG_MAGIC.items() if head[at : at + len(magic)] == magic), "")


# Chunks of plain samples: WAV, RF64, AIFF, CAF, W64, and AU with its one header


class ChunkLayout(NamedTuple):
    """How a container is cut into chunks."""

    head: int  # bytes before the first chunk
    name: int  # bytes of a chunk's name, of which the first four count
    size: int  # bytes of its size
    byteorder: Byteorder
    sound: bytes  # name of the chunk with the sound
    align: int  # chunks begin at multiples of this
    counts_itself: bool = False  # whether the size includes name and size


LAYOUTS = {
    b"RIFF": ChunkLayout(12, 4, 4, "little", b"data", 2),
    b"RIFX": ChunkLayout(12, 4, 4, "big", b"data", 2),
    b"RF64": ChunkLayout(12, 4, 4, "little", b"data", 2),
    b"FORM": ChunkLayout(12, 4, 4, "big", b"SSND", 2),
    b"caff": ChunkLayout(8, 4, 8, "big", b"data", 1),
    b"riff": ChunkLayout(40, 16, 8, "little", b"data", 8, counts_itself=True),  # Sony Wave64
}


FollowingBytes = Literal["chunks", "other", "sound"]  # nothing but chunks; or what is no sound; or what may be sound
TAGS = (
    b"ID3",
    b"TAG",
    b"APETAGEX",
    b"LIST",
    b"bext",
    b"iXML",
)  # cut off, or no chunks at all


MP3 = 0x55  # the number that WAV gives it


class SoundChunk(NamedTuple):
    """Where the samples of a file are, in bytes."""

    begin: int
    promised: int  # that the header announces
    held: int  # from there to the end of the file
    open: bool  # the size is a place holder
    behind: FollowingBytes  # what is promised
    size_at: int
    size_bytes: int
    byteorder: Byteorder
    added: int  # what the size in the header counts besides
    coding: int = 0  # of the samples, by the number that WAV gives it

    def true_size(self) -> tuple[int, bytes]:
        """-> a place in the file, and the bytes there that say the size it has. Errors: OverflowError, more than these
        can say."""
        return self.size_at, (self.held + self.added).to_bytes(self.size_bytes, self.byteorder)


def sound_chunk(file: BinaryIO) -> SoundChunk | None:
    """File of plain samples -> where its sound is; None for other files and where there is no such chunk."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    magic = head[:4]
    if magic in (b".snd", b"dns."):
        return au_chunk(head, file_bytes)
    layout = LAYOUTS.get(magic)
    if layout is None or (magic in (b"RIFF", b"RIFX", b"RF64") and head[8:] != b"WAVE"):
        return None

    # From chunk to chunk until the one with the sound
    file.seek(layout.head)
    long_at = coding = 0  # where RF64 says the size, in a chunk in front
    own = layout.name + layout.size
    while len(chunk := file.read(own)) == own:
        begin = file.tell()
        added = own if layout.counts_itself else 0
        size = max(int.from_bytes(chunk[layout.name :], layout.byteorder) - added, 0)
        if chunk[:4] == b"ds64":
            long_at = begin + 8
        if chunk[:4] == b"fmt ":
            form = file.read(26)
            coding = int.from_bytes(form[24:] if form[:2] == b"\xfe\xff" else form[:2], "little")

        # libsndfile believes ds64 where there is one, so that is what is compared and mended
        if chunk[:4] == layout.sound:
            size_at, size_bytes = (long_at, 8) if long_at else (begin - layout.size, layout.size)
            file.seek(size_at)
            promised = max(int.from_bytes(file.read(size_bytes), layout.byteorder) - added, 0)
            held = file_bytes - begin
            places = OPEN_32_BITS if size_bytes == 4 else OPEN_64_BITS
            unknown = promised > held and any(promised + added in place for place in places)
            file.seek(min(begin + promised, file_bytes))
            behind = classify_following_bytes(file, file_bytes, layout)
            unknown = unknown or (promised == 0 and behind != "chunks")
            return SoundChunk(
                begin, promised, held, unknown, behind, size_at, size_bytes, layout.byteorder, added, coding
            )
        if begin + size > file_bytes:
            return None
        file.seek(-(-(begin + size) // layout.align) * layout.align)
    return None


def au_chunk(head: bytes, file_bytes: int) -> SoundChunk:
    """First 12 bytes of an AU file -> where its sound is."""
    byteorder: Byteorder = "big" if head[:4] == b".snd" else "little"
    begin, size = (int.from_bytes(head[at : at + 4], byteorder) for at in (4, 8))
    held = max(file_bytes - begin, 0)
    unknown = size > held and any(size in place for place in OPEN_32_BITS)
    behind: FollowingBytes = "chunks" if size >= held else "sound"
    return SoundChunk(begin, size, held, unknown or (size == 0 < held), behind, 8, 4, byteorder, 0)


def classify_following_bytes(file: BinaryIO, file_bytes: int, layout: ChunkLayout) -> FollowingBytes:
    """File at the end of a chunk -> "chunks": nothing but those, or a few bytes of padding; "other": a chunk and then
    something else, a tag, or zeros up to the end; "sound": neither a chunk nor a tag."""
    end = file.tell()
    next_bytes = file.read(16)
    is_tag = any(next_bytes.startswith(tag, at) for tag in TAGS for at in (0, 1))  # 1: behind a byte of padding
    file.seek(-(-end // layout.align) * layout.align)
    own, is_chunk = layout.name + layout.size, False
    while (left := file_bytes - file.tell()) >= own:
        name, size = file.read(layout.name)[:4], int.from_bytes(file.read(layout.size), layout.byteorder)
        size -= own if layout.counts_itself else 0
        if not 0 <= size <= left - own or not (name.isascii() and name.decode("ascii").isprintable()):
            return "other" if is_tag or is_chunk or has_only_zeros(file, end) else "sound"
        is_chunk = True
        file.seek(-(-(file.tell() + size) // layout.align) * layout.align)
    return "chunks"


def has_only_zeros(file: BinaryIO, begin: int) -> bool:
    """File -> whether nothing but zeros follows a place, as where a recorder fills whole blocks of its memory card."""
    file.seek(begin)
    return not any(any(piece) for piece in iter(lambda: file.read(1 << 20), b""))


# MPEG audio (MP3): frames one after the other, and perhaps a first one that counts them

BITRATES = {  # kbit/s by (version 1 or not, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MANY_FRAMES = 3  # one after the other are MPEG audio, fewer may be chance


class MpegFrame(NamedTuple):
    """Header of a frame of MPEG audio."""

    size: int  # bytes
    samples: int
    rate_hz: int
    layer: int
    side: int  # bytes before the place where a first frame counts the others


def mpeg_frame(head: bytes) -> MpegFrame | None:
    """Four bytes -> the frame that they begin, or None."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)  # version 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    bits, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    is_first = version == 3
    kbit = BITRATES[is_first, layer if is_first or layer == 1 else 2][bits]
    rate_hz = (44100, 48000, 32000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    samples = 384 if layer == 1 else 576 if layer == 3 and not is_first else 1152
    padding = (head[2] >> 1 & 1) * (4 if layer == 1 else 1)
    size = 12000 * kbit // rate_hz * 4 + padding if layer == 1 else samples // 8 * 1000 * kbit // rate_hz + padding
    is_mono = head[3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return MpegFrame(size, samples, rate_hz, layer, 4 + side)


def find_mpeg_frames(content: bytes, begin: int = 0) -> Iterator[tuple[int, MpegFrame]]:
    """File -> where its frames of MPEG audio begin; what lies between them (tags, damage) is passed over."""
    at, first, expected = begin, None, -1
    while (at := content.find(b"\xff", at)) >= 0:
        frame = mpeg_frame(content[at : at + 4])
        known = frame is not None and (first is None or frame[2:4] == first[2:4])
        if frame is None or not known or at + frame.size > len(content):
            at += 1
            continue
        if at != expected and mpeg_frame(content[at + frame.size : at + frame.size + 4]) is None:
            at += 1  # alone among other bytes it is chance
            continue
        first = first or frame
        yield at, frame
        expected = at = at + frame.size


class MpegAudio(NamedTuple):
    """What an MP3 file holds, in frames."""

    promised: int | None  # by its first frame; None if that counts nothing
    promised_at: int
    held: int
    frame: MpegFrame
    content: bytes
    places: list[tuple[int, int]]  # of the frames with sound, first and last byte

    @property
    def is_true(self) -> bool:
        """Whether the file's own count holds."""
        return self.promised == self.held

    @property
    def is_whole(self) -> bool:
        """Whether nothing lies between the frames."""
        return all(before[1] == after[0] for before, after in pairwise(self.places))

    def mended(self) -> bytes:
        """-> the frames alone, behind one that counts them."""
        # Some encoders count the first frame, which is no sound, too. It also says how much of the sound is padding
        if self.is_whole and self.promised == self.held + 1:
            at = self.promised_at
            return self.content[:at] + self.held.to_bytes(4, "big") + self.content[at + 4 :]
        begin = self.places[0][0]
        head = bytes([self.content[begin], self.content[begin + 1] | 1, *self.content[begin + 2 : begin + 4]])
        size = next(f.size for f in [mpeg_frame(head)] if f)
        if size < self.frame.side + 12:  # too small a frame for the count: one of a higher bit rate
            head = bytes([head[0], head[1], head[2] & 0x0F | 0xE0, head[3]])
            size = next(f.size for f in [mpeg_frame(head)] if f)
        count = b"Xing" + (1).to_bytes(4, "big") + self.held.to_bytes(4, "big")
        counting = (head.ljust(self.frame.side, b"\0") + count).ljust(size, b"\0")
        return counting + b"".join(self.content[begin:end] for begin, end in self.places)


def parse_mpeg(content: bytes, anywhere: bool) -> MpegAudio | None:
    """File -> what it holds of MPEG audio; None if it is none. `anywhere`: also where other bytes come first."""
    begin = skip_id3_tags(content)
    frames = list(find_mpeg_frames(content, begin))
    if len(frames) < MANY_FRAMES or (not anywhere and frames[0][0] != begin):
        return None
    at, frame = frames[0]
    tag = content[at + frame.side : at + frame.side + 12]
    promised = None
    if tag[:4] in (b"Xing", b"Info"):
        frames = frames[1:]
        promised = int.from_bytes(tag[8:], "big") if tag[7] & 1 else None
    elif content[at + 36 : at + 40] == b"VBRI":
        frames = frames[1:]
    places = [(place, place + each.size) for place, each in frames]
    return MpegAudio(promised, at + frame.side + 8, len(frames), frame, content, places)


def skip_id3_tags(content: bytes) -> int:
    """File -> where what follows its ID3 tags begins, 0 without them."""
    at = 0
    while content[at : at + 3] == b"ID3" and len(content) >= at + 10:
        a, b, c, d = content[at + 6 : at + 10]
        at += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if content[at + 5] & 0x10 else 0)
    return at


# FLAC: STREAMINFO says how many samples there are, and the first and the last frame know


class FlacAudio(NamedTuple):
    """What a FLAC file holds, in samples."""

    promised: int  # 0: not known when it was written
    first: int  # number of the first sample: not 0 where the file was cut out of a longer one
    held: int  # 0: no frame was found
    rate_hz: int
    total_at: int

    def true_length(self, file: BinaryIO) -> tuple[int, bytes]:
        """File -> a place in it, and the bytes there that say the length it has."""
        file.seek(self.total_at)
        beside = file.read(1)[0] & 0xF0  # half of the byte belongs to what stands before
        return self.total_at, bytes([beside | self.held >> 32]) + (self.held & 0xFFFFFFFF).to_bytes(4, "big")


FLAC_TAIL = 1 << 20  # bytes in which the last frame begins: the largest one of 8 channels of 24 bit is shorter
FLAC_MOST = 1 << 36  # samples that a header can count


def parse_flac(file: BinaryIO) -> FlacAudio | None:
    """File -> what it holds; None if it is no FLAC."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    begin = skip_id3_tags(file.read(1 << 16))
    file.seek(begin)
    head = file.read(42)
    if head[:4] != b"fLaC" or len(head) < 42:
        return None
    promised = (head[21] & 0x0F) << 32 | int.from_bytes(head[22:26], "big")
    rate_hz = int.from_bytes(head[18:21], "big") >> 4
    largest = int.from_bytes(head[10:12], "big")  # samples of a block, the same for all but the last

    # Blocks of facts: the top bit marks the last one, three bytes say how long it is
    block, sound_at = head[4:8], begin + 8 + int.from_bytes(head[5:8], "big")
    while len(block) == 4 and not block[0] & 0x80:
        file.seek(sound_at)
        block = file.read(4)
        sound_at += 4 + int.from_bytes(block[1:], "big")
    file.seek(sound_at)
    first_head = file.read(16)
    first = flac_frame(first_head, largest)

    # The last header that stands: most often near the end, but it may be damaged, or megabytes of a tag may follow
    end, upto = 0, file_bytes
    while not end and upto > begin + 42:
        since = max(begin + 42, upto - FLAC_TAIL)
        file.seek(since)
        end = flac_end(file.read(upto - since + 16), largest, first_head if first else b"")  # one may lie across
        upto = since
    first_sample = first[0] if first and first[0] < end else 0
    return FlacAudio(promised, first_sample, end - first_sample, rate_hz, begin + 21)


def flac_end(tail: bytes, block_samples: int, first: bytes) -> int:
    """Last bytes of a FLAC file -> number of the sample behind them, told by the last frame's header; 0 if none.

    A frame is of the kind of the first one, if that is given: version, rate and width are the same in all.
    """
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        head = tail[at : at + 16]
        is_alike = not first or flac_kind(head) == flac_kind(first)
        if is_alike and (frame := flac_frame(head, block_samples)) is not None:
            return frame[1]
    return 0


def flac_kind(head: bytes) -> tuple[int, ...]:
    return tuple(byte & mask for byte, mask in zip(head[:4], (0xFF, 0xFF, 0x0F, 0x0F), strict=False))


def flac_frame(head: bytes, block_samples: int) -> tuple[int, int] | None:
    """First bytes of a FLAC frame -> numbers of its first sample and of the one behind it; None if it is none."""
    if len(head) < 7 or head[:2] not in (b"\xff\xf8", b"\xff\xf9"):
        return None
    if head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1:
        return None
    leading = 8 - (head[4] ^ 0xFF).bit_length()  # ones in front, as in UTF-8
    if leading == 1 or leading > 7:
        return None
    number = head[4] & (0x7F >> leading)
    behind = 5 + max(leading - 1, 0)
    for byte in head[5:behind]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    code = head[2] >> 4
    if code in (6, 7):
        samples = int.from_bytes(head[behind : behind + code - 5], "big") + 1
        behind += code - 5
    else:
        samples = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    behind += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if len(head) <= behind or compute_crc8(head[:behind]) != head[behind]:
        return None
    begin = number if head[1] & 1 else number * block_samples
    return begin, begin + samples


def compute_crc8(data: bytes) -> int:
    """Bytes -> their CRC-8 with the polynomial of FLAC, x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value << 1 ^ (0x107 if value & 0x80 else 0)
    return value


# Ogg: pages, of one stream or of several, one behind the other


class OggAudio(NamedTuple):
    """What an Ogg file holds, in bytes."""

    links: list[tuple[int, int]]  # first and last byte of each stream that stands behind another
    is_ended: bool  # whether the last page says that it is the last
    is_cut: bool  # whether the file ends inside a page
    damaged: int  # pages that are not what was written, which decoders pass over
    is_ordered: bool  # whether no page says that it ends before another one in front of it, as a false length does


def parse_ogg(content: bytes) -> OggAudio | None:
    """File -> its pages' facts; None if it is no Ogg."""
    at, begins, opening, ended = 0, list[int](), False, False
    damaged, is_ordered, ends = 0, True, dict[bytes, int]()
    while content[at : at + 4] == b"OggS" and len(content) >= at + 27:
        segments = content[at + 26]
        size = 27 + segments + sum(content[at + 27 : at + 27 + segments])
        is_first = bool(content[at + 5] & 2)
        if is_first and not opening:
            begins.append(at)
        opening, ended = is_first, bool(content[at + 5] & 4)

        # How far the sound goes with this page, in samples; -1 where no packet ends in it
        damaged += ogg_sum(content[at : at + size]) != content[at + 22 : at + 26]
        stream, end = content[at + 14 : at + 18], int.from_bytes(content[at + 6 : at + 14], "little", signed=True)
        before = -1 if is_first else ends.get(stream, -1)
        is_ordered = is_ordered and (end == -1 or end >= before)
        ends[stream] = max(end, before)
        at += size
    if not begins:
        return None
    return OggAudio(list(pairwise([*begins, len(content)])), ended, at > len(content), damaged, is_ordered)


MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_sum(page: bytes) -> bytes:
    """Page -> its four bytes of CRC-32 as Ogg has it: that of zlib with the bits of all bytes in the other order, from
    0 and not inverted."""
    without = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(without.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return mirrored.to_bytes(4, "big").translate(MIRRORED)
