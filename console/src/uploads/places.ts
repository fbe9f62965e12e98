/** Where a file belongs, by the ending of its name. */
const FOLDERS = new Map<string, [folder: string, mime: string]>([
  ["vrm", ["vrm", "model/vrm"]],
  ["fbx", ["animations", "application/octet-stream"]],
  ["vrma", ["animations", "application/octet-stream"]],
  ["bvh", ["animations", "application/octet-stream"]],
  ["mp3", ["bgm", "audio/mpeg"]],
  ["ogg", ["bgm", "audio/ogg"]],
  ["wav", ["bgm", "audio/wav"]],
  ["m4a", ["bgm", "audio/mp4"]],
  ["flac", ["bgm", "audio/flac"]],
  ["aac", ["bgm", "audio/aac"]],
  ["hdr", ["hdr", "image/vnd.radiance"]],
  ["exr", ["hdr", "image/x-exr"]],
  ["glb", ["scene", "model/gltf-binary"]],
]);

/** For a file input: what may be chosen. */
export const ACCEPTED = [...FOLDERS.keys()].map((ending) => `.${ending}`).join(",");

/** The wanted key and the MIME type of a file of this name, or null. */
export function placeOf(name: string): { key: string; mime: string } | null {
  const [, ending] = /\.([^.]+)$/.exec(name) ?? [];
  const place = FOLDERS.get(ending?.toLowerCase() ?? "");
  return place ? { key: `${place[0]}/${name}`, mime: place[1] } : null;
}
