/**
 * How this browser sends a canvas: with the luma of television (16 to 235), as everybody who receives it takes it to be, or
 * with all values from 0 to 255, as Chromium does when it puts its pages together without a graphics card (measured with
 * Chromium 156). LiveKit does not tell receivers of that, so black and white would be lost on air. Asked by `use-outgoing`,
 * which has the scene draw against it.
 */

const WIDTH = 160;
const HEIGHT = 90;
/** Between the two whites, 235 and 255. */
const WHITE = 245;
/** ms. Nobody waits for it, and a busy computer without a graphics card, which is what it is for, may take long. */
const PATIENCE = 60_000;

interface FrameReader {
  readable: ReadableStream<VideoFrame>;
}
declare const MediaStreamTrackProcessor: (new (from: { track: MediaStreamTrack }) => FrameReader) | undefined;

/** Sends a white canvas to itself, and looks at what arrives. False where the browser cannot be asked. */
export async function sendsFullRange(): Promise<boolean> {
  if (typeof MediaStreamTrackProcessor === "undefined") return false;
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const gl = canvas.getContext("webgl2", { alpha: false });
  if (!gl) return false;
  gl.clearColor(1, 1, 1, 1);
  const drawing = setInterval(() => gl.clear(gl.COLOR_BUFFER_BIT), 50);
  const track = canvas.captureStream(20).getVideoTracks()[0];
  const from = new RTCPeerConnection();
  const to = new RTCPeerConnection();
  try {
    if (!track) return false;
    const arrived = new Promise<MediaStreamTrack>((resolve) => (to.ontrack = (event) => resolve(event.track)));
    from.onicecandidate = ({ candidate }) => void to.addIceCandidate(candidate ?? undefined);
    to.onicecandidate = ({ candidate }) => void from.addIceCandidate(candidate ?? undefined);
    from.addTransceiver(track, { direction: "sendonly" });
    await from.setLocalDescription();
    if (from.localDescription) await to.setRemoteDescription(from.localDescription);
    await to.setLocalDescription();
    if (to.localDescription) await from.setRemoteDescription(to.localDescription);
    const late = new Promise<null>((resolve) => setTimeout(() => resolve(null), PATIENCE));
    const luma = await Promise.race([arrived.then(lumaOf), late]);
    return luma !== null && luma > WHITE;
  } catch {
    return false;
  } finally {
    clearInterval(drawing);
    track?.stop();
    from.close();
    to.close();
    gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}

/** Of the middle of the first picture that is large enough to be one. */
async function lumaOf(track: MediaStreamTrack): Promise<number | null> {
  if (typeof MediaStreamTrackProcessor === "undefined") return null;
  const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
  for (;;) {
    const { value: frame } = await reader.read();
    if (!frame) return null;
    try {
      if (frame.codedWidth < WIDTH / 4 || !frame.format?.startsWith("I420")) continue;
      const planes = new Uint8Array(frame.allocationSize());
      const [luma] = await frame.copyTo(planes);
      return luma
        ? (planes[luma.offset + (frame.codedHeight >> 1) * luma.stride + (frame.codedWidth >> 1)] ?? null)
        : null;
    } finally {
      frame.close();
    }
  }
}
