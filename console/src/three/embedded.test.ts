import { GLTFLoader } from "three/examples/jsm/loaders/GLTFLoader.js";
import { afterEach, expect, test, vi } from "vitest";

import { embeddedOnly } from "./embedded";

afterEach(() => vi.unstubAllGlobals());

const OUTSIDE = [
  "/dev/sign-in?user=mallory",
  "/api/session",
  "picture.png",
  "../picture.png",
  "//evil.example/picture.png",
  "https://evil.example/picture.png",
  "HTTPS://evil.example/picture.png",
  "file:///etc/passwd",
  " data:image/png;base64,AA==",
  "data/picture.png",
];

test.each(OUTSIDE)("%s is never asked for", (url) => {
  expect(embeddedOnly().resolveURL(url)).toBe("data:,");
});

test.each(["data:image/png;base64,AA==", "DATA:,x", "blob:http://127.0.0.1/1-2-3"])("%s is", (url) => {
  expect(embeddedOnly().resolveURL(url)).toBe(url);
});

/** A triangle with a texture, in glTF's JSON form; the buffer and the picture are where the test says. */
function model(buffer: string, picture: string): string {
  return JSON.stringify({
    asset: { version: "2.0" },
    scene: 0,
    scenes: [{ nodes: [0] }],
    nodes: [{ mesh: 0 }],
    meshes: [{ primitives: [{ attributes: { POSITION: 0 }, material: 0 }] }],
    materials: [{ pbrMetallicRoughness: { baseColorTexture: { index: 0 } } }],
    textures: [{ source: 0 }],
    images: [{ uri: picture }],
    accessors: [{ bufferView: 0, componentType: 5126, count: 3, type: "VEC3", min: [0, 0, 0], max: [0, 0, 0] }],
    bufferViews: [{ buffer: 0, byteLength: 36 }],
    buffers: [{ uri: buffer, byteLength: 36 }],
  });
}

const INSIDE = `data:application/octet-stream;base64,${btoa("\0".repeat(36))}`;

/** Every address that the loader asks for while it reads the model. */
async function asked(buffer: string, picture: string): Promise<{ urls: string[]; loaded: boolean }> {
  const urls: string[] = [];
  const real = globalThis.fetch;
  vi.stubGlobal("fetch", (request: Request | string) => {
    urls.push(typeof request === "string" ? request : request.url);
    return real(request);
  });
  vi.stubGlobal("createImageBitmap", () => Promise.resolve({ width: 1, height: 1, close: () => undefined }));
  vi.stubGlobal("self", globalThis);
  vi.stubGlobal("ProgressEvent", Event);
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  const loaded = await new GLTFLoader(embeddedOnly()).parseAsync(model(buffer, picture), "").then(
    () => true,
    () => false,
  );
  return { urls, loaded };
}

test("a model whose picture is elsewhere is shown without it, and nothing is asked for", async () => {
  const { urls, loaded } = await asked(INSIDE, "/dev/sign-in?user=mallory");
  expect(loaded).toBe(true);
  expect(urls.length).toBeGreaterThan(0);
  expect(urls.filter((url) => !url.startsWith("data:"))).toEqual([]);
});

test("a model whose buffer is elsewhere is refused, and nothing is asked for", async () => {
  const { urls, loaded } = await asked("https://evil.example/buffer.bin", "data:image/png;base64,AA==");
  expect(loaded).toBe(false);
  expect(urls.length).toBeGreaterThan(0);
  expect(urls.filter((url) => !url.startsWith("data:"))).toEqual([]);
});
