/**
 * What a user's file may make the browser load: only what is inside of it. A GLB or an FBX can name any address for a
 * texture or a buffer, and would then send whoever looks at it there, with their cookies. Used by `scene.ts` for every loader.
 */
import { LoadingManager } from "three";

/** Where three.js finds what it has unpacked from a file itself. */
const INSIDE = /^(?:data|blob):/i;

/** Empty: a texture stays blank, a buffer is too short and the file is refused. Nothing is asked for. */
const NOTHING = "data:,";

export function embeddedOnly(): LoadingManager {
  const manager = new LoadingManager();
  manager.setURLModifier((url) => (INSIDE.test(url) ? url : NOTHING));
  return manager;
}
