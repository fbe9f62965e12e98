"""Round bodies as triangles, and the glTF that holds them, for the demo's avatars and motions."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Body:
    """Triangles in metres: `points` and `normals` are n × 3, `corners` indices of points, three for each triangle."""

    points: Points
    normals: Points
    corners: NDArray[np.uint16]

    def moved(self, by: tuple[float, float, float]) -> Body:
        """The same body, moved."""
        return Body(self.points + np.array(by, np.float32), self.normals, self.corners)


def _grid(rows: int, columns: int) -> NDArray[np.uint16]:
    """The corners of a sheet of `rows` × `columns` points, whose last column lies on its first."""
    found = []
    for row in range(rows - 1):
        for column in range(columns - 1):
            here, below = row * columns + column, (row + 1) * columns + column
            found += [here, below, here + 1, here + 1, below, below + 1]
    return np.array(found, np.uint16)


def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float], rows: int = 14) -> Body:
    """An ellipsoid."""
    down = np.linspace(0, np.pi, rows)[:, None]
    around = np.linspace(0, 2 * np.pi, rows * 2)[None, :]
    ball = np.stack(
        [np.sin(down) * np.sin(around), np.cos(down) * np.ones_like(around), np.sin(down) * np.cos(around)], axis=-1
    ).reshape(-1, 3)
    normals = ball / np.array(radii)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = ball * np.array(radii) + np.array(centre)
    return Body(points.astype(np.float32), normals.astype(np.float32), _grid(rows, rows * 2))


def turned(profile: list[tuple[float, float]], axis: str = "y", columns: int = 22) -> Body:
    """A body of revolution: a line of (radius, place on the axis) around an axis through the origin; walking down the
    line, outside is on the right."""
    line = np.array(profile, float)
    slope = np.gradient(line, axis=0)
    around = np.linspace(0, 2 * np.pi, columns)[None, :]
    radius, height = line[:, :1], line[:, 1:]
    points = np.stack([radius * np.sin(around), height * np.ones_like(around), radius * np.cos(around)], axis=-1)
    outward, along = -slope[:, 1:], slope[:, :1]
    normals = np.stack([outward * np.sin(around), along * np.ones_like(around), outward * np.cos(around)], axis=-1)
    points, normals = points.reshape(-1, 3), normals.reshape(-1, 3)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    if axis == "x":
        # A turn about z by -90°: up becomes +x.
        points, normals = (np.stack([p[:, 1], -p[:, 0], p[:, 2]], axis=-1) for p in (points, normals))
    return Body(points.astype(np.float32), normals.astype(np.float32), _grid(len(line), columns))


class Gltf:
    """A document being built: each addition gets its buffer view and accessor."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"asset": {"version": "2.0", "generator": "Butai demo"}}
        self._binary = bytearray()

    def add(self, name: str, item: dict[str, Any]) -> int:
        """Appends to a list of the document; returns the index."""
        found = self.document.setdefault(name, [])
        found.append(item)
        return len(found) - 1

    def view(self, body: bytes) -> int:
        """Adds bytes to the BIN chunk; returns the index of their buffer view."""
        self._binary += b"\0" * (-len(self._binary) % 4)
        offset = len(self._binary)
        self._binary += body
        return self.add("bufferViews", {"buffer": 0, "byteOffset": offset, "byteLength": len(body)})

    def numbers(self, values: NDArray[Any], *, bounds: bool = False) -> int:
        """Adds an accessor: scalars, vectors of three or of four, as floats or 16-bit indices. Returns its index."""
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[1 if values.ndim == 1 else values.shape[1]]
        given: dict[str, Any] = {
            "bufferView": self.view(np.ascontiguousarray(values).tobytes()),
            "componentType": 5123 if values.dtype == np.uint16 else 5126,
            "count": len(values),
            "type": kind,
        }
        if bounds:
            flat = values.reshape(len(values), -1)
            given |= {"min": flat.min(axis=0).tolist(), "max": flat.max(axis=0).tolist()}
        return self.add("accessors", given)

    def primitive(self, body: Body, material: int, shifts: list[Points] | None = None) -> dict[str, Any]:
        """A primitive of a mesh. `shifts`: one morph target each, at full extent."""
        given: dict[str, Any] = {
            "attributes": {"POSITION": self.numbers(body.points, bounds=True), "NORMAL": self.numbers(body.normals)},
            "indices": self.numbers(body.corners),
            "material": material,
        }
        if shifts:
            given["targets"] = [{"POSITION": self.numbers(shift.astype(np.float32), bounds=True)} for shift in shifts]
        return given

    def extension(self, name: str, value: dict[str, Any]) -> None:
        """Adds an extension at the root."""
        self.document.setdefault("extensions", {})[name] = value
        self.use(name)

    def use(self, name: str) -> None:
        """Declares that an extension is used."""
        used = self.document.setdefault("extensionsUsed", [])
        if name not in used:
            used.append(name)

    def file(self) -> bytes:
        """The GLB (glTF 2.0, "GLB File Format Specification")."""
        self.document["buffers"] = [{"byteLength": len(self._binary)}]
        text = json.dumps(self.document, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 4)
        binary = bytes(self._binary) + b"\0" * (-len(self._binary) % 4)
        head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary))
        return (
            head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
        )
