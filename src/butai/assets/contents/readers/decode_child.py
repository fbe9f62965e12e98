"""Decodes one file in a process with limits of its own, so that a hostile file harms no other process.

`python -m butai.assets.contents.readers.decode_child sound|picture PATH` prints one line of JSON. It opens the file, then
gives up everything else (`confinement`), then reads. Imports of Butai only what computes. Loudness: ITU-R BS.1770-4 (K-weighting,
400 ms blocks, gates at -70 LUFS and 10 LU below the mean).
"""

from __future__ import annotations

import base64
import importlib
import io
import itertools
import json
import re
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

from butai.assets.contents.readers import confinement
from butai.assets.signatures import MOST_TAGS, PADDING, picture_mime, sound_start

MEMORY = 2 * 1024**3
"""Most bytes of address space, whatever the file."""

SOUND_MEMORY = 512 * 1024**2
"""Most bytes for decoding a sound, beyond what the code takes: a packet may be as large as the file."""

PICTURE_MEMORY = 128 * 1024**2
PIXEL_MEMORY = 64
"""Most bytes for decoding a picture, beyond what the code takes and three times its file, which is read as a whole; and for each
of its pixels: as floats a pixel takes 16 in the decoded picture and 12 in each of two copies."""

CPU_SECONDS = 40
MOST_SECONDS = 2 * 3600
"""Longest sound that is decoded: two hours take some 20 s. Three MiB of FLAC can be five hours of silence."""

PEAKS = 800
"""Values of a waveform: more than a page shows in pixels."""

MOST_PIXELS = 64 * 1024**2
"""Largest picture: 8192 by 8192, which as floats is 768 MB."""

SOUNDS = "aac,flac,matroska,mov,mp3,ogg,wav"
PICTURES = {
    "exr": "exr_pipe",
    "hdr": "hdr_pipe",
    "jpeg": "jpeg_pipe",
    "jpg": "jpeg_pipe",
    "png": "png_pipe",
    "webp": "webp_pipe",
}
"""ffmpeg's demuxers for the accepted types, of pictures by extension; plain ones by what is inside. Some of its others follow
playlists, which name other files and URLs."""

PREVIEW = (512, 256)
STEP = 4800
"""Samples of 100 ms at 48 kHz."""

# The two filters of BS.1770-4 at 48 kHz, tables 1 and 2, as ffmpeg's biquad takes them.
_SHELF = "b0=1.53512485958697:b1=-2.69169618940638:b2=1.19839281085285:a0=1:a1=-1.69065929318241:a2=0.73248077421585"
_HIGHPASS = "b0=1:b1=-2:b2=1:a0=1:a1=-1.99004745483398:a2=0.99007225036621"


def main() -> None:
    """Sets the limits, decodes the file on the command line, prints the result."""
    kind, path = sys.argv[1:3]
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = sound(path) if kind == "sound" else picture(path)
    except TooLongError:
        answer = {"too_long": True}
    sys.stdout.write(json.dumps(answer) + "\n")


class TooLongError(Exception):
    """The sound has more than `MOST_SECONDS`, by its own claim or as it is decoded."""


def _opened(path: str, more_memory: int) -> tuple[BinaryIO, int]:
    """The open file, in a process that can open nothing else from now on; and the bytes of address space that its code takes,
    beyond which it has `more_memory`."""
    # All code is loaded before files are out of reach.
    for name in ("av.error", "av.filter", "av.subtitles.stream", "numpy"):
        importlib.import_module(name)
    file = Path(path).open("rb")  # noqa: SIM115 - closed by the end of the process
    loaded = confinement.address_space()
    confinement.confine()
    _limit_memory(loaded, more_memory)
    return file, loaded


def _limit_memory(loaded: int, more: int) -> None:
    # The hard limit stays: a picture's own comes when its header has been read.
    resource.setrlimit(resource.RLIMIT_AS, (min(MEMORY, loaded + more), MEMORY))


def sound(path: str) -> dict[str, Any]:
    """`duration` (s), `sample_rate` (Hz), `channels`, `peaks` (0 to 32767, at most `PEAKS`), `peak_dbfs`,
    `loudness_lufs` (None for silence). Raises `TooLongError`."""
    import av
    import numpy as np

    opened, _ = _opened(path, SOUND_MEMORY)
    source = _Sound(opened)
    loud: list[Any] = []
    energy: list[Any] = []
    options = _reading(SOUNDS) | {"analyzeduration": "5000000"}
    with av.open(source, "r", options=options) as file:
        if not file.streams.audio:
            raise ValueError("no sound")
        # In microseconds. What a head claims, or what follows from a first frame's bitrate, is looked at before it is believed.
        if (file.duration or 0) > MOST_SECONDS * 1_000_000 and _packets_length(file) > MOST_SECONDS:
            raise TooLongError
    source.seek(0)
    with av.open(source, "r", options=options) as file:
        stream = file.streams.audio[0]
        stream.codec_context.thread_count = 1
        frames = _frames(file, stream)
        first = next(frames, None)
        if first is None:
            raise ValueError("no sound")
        # By the first frame: a head's figures are claims, and those of AAC may be halves.
        channels = 1 if len(first.layout.channels) == 1 else 2
        heard = {"sample_rate": first.sample_rate, "channels": len(first.layout.channels)}
        layout = "mono" if channels == 1 else "stereo"
        graph = _weighting(av, layout)
        rest, rest_weighted = np.zeros((channels, 0), "f4"), np.zeros((channels, 0), "f4")
        total = 0
        for even in _evened(av, itertools.chain([first], frames), layout):
            samples = even.to_ndarray()
            total += samples.shape[1]
            if total > MOST_SECONDS * 48000:
                raise TooLongError
            rest = _blocks(np.concatenate((rest, samples), axis=1), loud, lambda one: np.abs(one).max(axis=(0, 2)))
            weighted = _through(av, np, graph, even)
            rest_weighted = _blocks(
                np.concatenate((rest_weighted, weighted), axis=1),
                energy,
                lambda one: np.square(one, dtype="f8").mean(axis=2).sum(axis=0),
            )
        if not total:
            raise ValueError("no sound")
        if rest.shape[1]:
            loud.append(np.abs(rest).max(keepdims=True).reshape(1))
    peaks = np.concatenate(loud)
    top = float(peaks.max())
    steps = np.array_split(peaks, min(PEAKS, len(peaks)))
    shown = [min(32767, round(float(step.max()) * 32767)) for step in steps]
    return {
        **heard,
        "duration": round(total / 48000, 3),
        "peaks": shown,
        "peak_dbfs": round(20 * float(np.log10(top)), 1) if top > 1e-7 else None,
        "loudness_lufs": _integrated(np, np.concatenate(energy) if energy else np.zeros(0)),
    }


class _Sound(io.RawIOBase):
    """A file from where its sound begins: ffmpeg knows tags of one kind alone, and not what stands around MP3."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.name = file, file.name
        self._start = 0
        # Padding may follow a tag that is longer than what is read at once.
        for _ in range(MOST_TAGS):
            file.seek(self._start)
            if not (skipped := sound_start(file.read(2 * PADDING))[1]):
                break
            self._start += skipped
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return max(0, self._file.tell() - self._start)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset + self._start if whence == io.SEEK_SET else offset, whence)
        return self.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def _packets_length(file: Any) -> float:
    """Seconds of the sound's packets, which are read and not decoded."""
    stream = file.streams.audio[0]
    found = 0.0
    for packet in file.demux(stream):
        found += float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
    return found


def _evened(av: Any, frames: Any, layout: str) -> Any:
    """The frames as floats at 48 kHz in one layout, though the rate, the channels or the samples' form change on the way."""
    form: Any = None
    plain: Any = None
    for frame in frames:
        if (found := (frame.format.name, frame.layout.name, frame.sample_rate)) != form:
            if plain is not None:
                yield from plain.resample(None)
            form, plain = found, av.AudioResampler(format="fltp", layout=layout, rate=48000)
        # A clock that jumps would fill the gap, or leave out what comes before it.
        frame.pts = None
        yield from plain.resample(frame)
    if plain is not None:
        yield from plain.resample(None)


def _reading(formats: str) -> dict[str, str]:
    return {"format_whitelist": formats, "protocol_whitelist": "file"}


def _frames(file: Any, stream: Any) -> Any:
    from av.error import InvalidDataError

    for packet in file.demux(stream):
        try:
            yield from packet.decode()
        except InvalidDataError:
            # One broken frame becomes silence, as in players.
            continue


def _blocks(samples: Any, into: list[Any], measure: Any) -> Any:
    """Appends the measure of each whole block of 100 ms in `samples` to `into`; returns the remaining samples."""
    whole = samples.shape[1] // STEP
    if whole:
        into.append(measure(samples[:, : whole * STEP].reshape(samples.shape[0], whole, STEP)))
    return samples[:, whole * STEP :]


def _weighting(av: Any, layout: str) -> Any:
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=48000, format="fltp", layout=layout, time_base="1/48000")
    shelf, high, sink = graph.add("biquad", _SHELF), graph.add("biquad", _HIGHPASS), graph.add("abuffersink")
    source.link_to(shelf)
    shelf.link_to(high)
    high.link_to(sink)
    graph.configure()
    return graph


def _through(av: Any, np: Any, graph: Any, frame: Any) -> Any:
    graph.push(frame)
    found: list[Any] = []
    while True:
        try:
            found.append(graph.pull().to_ndarray())
        except (av.BlockingIOError, av.EOFError):
            break
    return np.concatenate(found, axis=1) if found else np.zeros((len(frame.layout.channels), 0), "f4")


def _integrated(np: Any, steps: Any) -> float | None:
    """Integrated loudness in LUFS, from the energies of blocks of 100 ms; None for silence."""
    if len(steps) < 4:
        return None
    blocks = (steps[:-3] + steps[1:-2] + steps[2:-1] + steps[3:]) / 4
    levels = -0.691 + 10 * np.log10(np.maximum(blocks, 1e-12))
    heard = blocks[levels > -70]
    if not len(heard):
        return None
    gate = -0.691 + 10 * np.log10(heard.mean()) - 10
    heard = blocks[(levels > -70) & (levels > gate)]
    return round(float(-0.691 + 10 * np.log10(heard.mean())), 1)


def picture(path: str) -> dict[str, Any]:
    """`jpeg` in base64: a preview of at most `PREVIEW` pixels, tone-mapped for a sky."""
    import av
    import numpy as np

    with Path(path).open("rb") as file:
        form = PICTURES[(picture_mime(file.read(16)) or path.lower()).rpartition("/")[2].rpartition(".")[2]]
    memory = PICTURE_MEMORY + 3 * Path(path).stat().st_size
    opened, loaded = _opened(path, memory)
    source = io.BytesIO(_plain_radiance(opened.read())) if form == "hdr_pipe" else opened
    with av.open(source, "r", format=form, options=_reading(form)) as file:
        context = file.streams.video[0].codec_context
        if context.width * context.height > MOST_PIXELS:
            raise ValueError("too large")
        _limit_memory(loaded, memory + PIXEL_MEMORY * context.width * context.height)
        frame = next(file.decode(video=0))
    scale = min(1.0, PREVIEW[0] / frame.width, PREVIEW[1] / frame.height)
    width, height = max(2, round(frame.width * scale) // 2 * 2), max(2, round(frame.height * scale) // 2 * 2)
    if "f32" in frame.format.name or "f16" in frame.format.name:
        # Green, blue, red: ffmpeg's order of planes.
        green, blue, red = (
            np.frombuffer(memoryview(plane), "f4").reshape(-1, plane.line_size // 4)[: frame.height, : frame.width]
            for plane in frame.reformat(format="gbrpf32le").planes[:3]
        )
        light = np.nan_to_num(_smaller(np, np.stack((red, green, blue), axis=2), width, height), posinf=1e4, neginf=0)
        frame = av.VideoFrame.from_ndarray(_toned(np, np.clip(light, 0, 1e4)), format="rgb24")
    out = av.CodecContext.create("mjpeg", "w")
    out.width, out.height, out.pix_fmt = width, height, "yuvj420p"
    out.time_base = 1  # pyright: ignore[reportAttributeAccessIssue]
    out.options = {"qmin": "3", "qmax": "5"}
    frame.pts = 0
    packets = [*out.encode(frame.reformat(width=width, height=height, format="yuvj420p")), *out.encode(None)]
    return {"jpeg": base64.b64encode(b"".join(bytes(packet) for packet in packets)).decode()}


_RESOLUTION = re.compile(rb"\n\r?\n([-+][XY] +\d+ +[-+][XY] +\d+)\r?\n")
_RADIANCE_HEAD = 64 * 1024


def _plain_radiance(body: bytes) -> bytes:
    """A sky with the head that ffmpeg knows: other programs begin with `#?RGBE`, and end lines with CR too."""
    found = _RESOLUTION.search(body, 0, _RADIANCE_HEAD)
    if found is None or not body.startswith(b"#?"):
        return body
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n" + found[1] + b"\n" + body[found.end() :]


def _smaller(np: Any, light: Any, width: int, height: int) -> Any:
    """Scales down by means over areas: a sun of a few pixels must not vanish between sampled pixels."""
    rows = np.linspace(0, light.shape[0], height + 1).astype(int)
    columns = np.linspace(0, light.shape[1], width + 1).astype(int)
    down = np.add.reduceat(light, np.minimum(rows[:-1], light.shape[0] - 1), axis=0)
    both = np.add.reduceat(down, np.minimum(columns[:-1], light.shape[1] - 1), axis=1)
    count = np.maximum(np.diff(rows), 1)[:, None, None] * np.maximum(np.diff(columns), 1)[None, :, None]
    return both / count


def _toned(np: Any, light: Any) -> Any:
    """Reinhard's operator with a key of 0.18 (Reinhard et al., 2002), then sRGB's curve."""
    luminance = light @ np.array([0.2126, 0.7152, 0.0722])
    exposed = light * (0.18 / max(float(np.exp(np.log(luminance + 1e-4).mean())), 1e-4))
    bounded = exposed / (1 + exposed)
    curved = np.where(bounded <= 0.0031308, 12.92 * bounded, 1.055 * np.power(bounded, 1 / 2.4) - 0.055)
    return np.ascontiguousarray((np.clip(curved, 0, 1) * 255 + 0.5).astype("u1"))


if __name__ == "__main__":
    main()
