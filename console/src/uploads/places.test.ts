import { expect, test } from "vitest";

import { ACCEPTED, placeOf } from "./places";

test.each([
  ["Aoi.vrm", "vrm/Aoi.vrm", "model/vrm"],
  ["AOI.VRM", "vrm/AOI.VRM", "model/vrm"],
  ["turn.vrma", "animations/turn.vrma", "application/octet-stream"],
  ["walk.fbx", "animations/walk.fbx", "application/octet-stream"],
  ["walk.bvh", "animations/walk.bvh", "application/octet-stream"],
  ["song.v2.mp3", "bgm/song.v2.mp3", "audio/mpeg"],
  ["song.m4a", "bgm/song.m4a", "audio/mp4"],
  ["sky.hdr", "hdr/sky.hdr", "image/vnd.radiance"],
  ["sky.exr", "hdr/sky.exr", "image/x-exr"],
  ["hall.glb", "scene/hall.glb", "model/gltf-binary"],
  ["名前 ①.glb", "scene/名前 ①.glb", "model/gltf-binary"],
])("%s belongs to %s", (name, key, mime) => {
  expect(placeOf(name)).toEqual({ key, mime });
});

test.each(["notes.txt", "vrm", "", ".", "Aoi.vrm.zip", "Aoi.", "a.constructor", "a.toString", "a.__proto__"])(
  "%j belongs nowhere",
  (name) => {
    expect(placeOf(name)).toBeNull();
  },
);

test("a file dialog offers what has a place, and nothing else", () => {
  const endings = ACCEPTED.split(",");
  expect(endings.length).toBeGreaterThan(10);
  for (const ending of endings) expect(placeOf(`a${ending}`)).not.toBeNull();
});
