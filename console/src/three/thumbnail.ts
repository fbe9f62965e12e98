/** An avatar's picture, drawn where nobody sees it. Used after an upload; the preview takes its own from what it shows. */
import { Scene } from "./scene";

export const THUMBNAIL = 512;
/** Textures reach the card, springs settle. */
export const FRAMES_BEFORE = 12;

export async function drawThumbnail(url: string): Promise<Blob | null> {
  const canvas = document.createElement("canvas");
  const scene = new Scene(canvas, { width: THUMBNAIL, height: THUMBNAIL }, 15, true);
  try {
    const { isVrm } = await scene.load(url);
    if (!isVrm) return null;
    await scene.drawn(FRAMES_BEFORE);
    return await scene.picture(THUMBNAIL, THUMBNAIL);
  } finally {
    scene.dispose();
  }
}
