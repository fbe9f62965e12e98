import { beforeEach, expect, test, vi } from "vitest";

import { sendsFullRange } from "./range";

/** A picture whose luma is `luma` in the middle and 16 everywhere else. */
function frame(luma: number, { width = 160, height = 90, format = "I420", offset = 32, stride = 192 } = {}) {
  return {
    codedWidth: width,
    codedHeight: height,
    format,
    allocationSize: () => offset + stride * height,
    copyTo: async (planes: Uint8Array) => {
      planes.fill(16);
      planes[offset + (height >> 1) * stride + (width >> 1)] = luma;
      return [{ offset, stride }];
    },
    close: vi.fn(),
  };
}

const closed = { peers: 0, tracks: 0, contexts: 0 };

/** A browser whose connection to itself brings these pictures; `arrives`: whether anything does. */
function browser(frames: ReturnType<typeof frame>[], { arrives = true, webgl = true, negotiates = true } = {}) {
  const gl = {
    COLOR_BUFFER_BIT: 1,
    clearColor: vi.fn(),
    clear: vi.fn(),
    getExtension: () => ({ loseContext: () => (closed.contexts += 1) }),
  };
  vi.stubGlobal("document", {
    createElement: () => ({
      getContext: () => (webgl ? gl : null),
      captureStream: () => ({ getVideoTracks: () => [{ stop: () => (closed.tracks += 1) }] }),
    }),
  });
  class Peer {
    ontrack?: (event: { track: object }) => void;
    localDescription = {};
    addTransceiver = vi.fn();
    addIceCandidate = vi.fn();
    setLocalDescription = negotiates ? vi.fn() : vi.fn().mockRejectedValue(new Error("no"));
    setRemoteDescription = async () => {
      if (arrives) this.ontrack?.({ track: {} });
    };
    close = () => (closed.peers += 1);
  }
  vi.stubGlobal("RTCPeerConnection", Peer);
  class Processor {
    readable = { getReader: () => ({ read: async () => ({ value: frames.shift() }) }) };
  }
  vi.stubGlobal("MediaStreamTrackProcessor", Processor);
}

beforeEach(() => {
  Object.assign(closed, { peers: 0, tracks: 0, contexts: 0 });
  vi.useFakeTimers();
  return () => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  };
});

test.each([
  [255, true],
  [250, true],
  [240, false],
  [235, false],
])("white that arrives as %i: full range is %s", async (luma, full) => {
  const arriving = frame(luma);
  browser([arriving]);
  expect(await sendsFullRange()).toBe(full);
  expect(arriving.close).toHaveBeenCalledOnce();
  expect(closed).toEqual({ peers: 2, tracks: 1, contexts: 1 });
  expect(vi.getTimerCount()).toBeLessThanOrEqual(1);
});

test("the first pictures, which are small, and those that are laid out another way, say nothing", async () => {
  const early = [frame(16, { width: 20, height: 12 }), frame(16, { format: "NV12" })];
  browser([...early, frame(255)]);
  expect(await sendsFullRange()).toBe(true);
  for (const one of early) expect(one.close).toHaveBeenCalledOnce();
});

test("where the pictures end before one could be looked at, it is as on television", async () => {
  browser([]);
  expect(await sendsFullRange()).toBe(false);
});

test("what never arrives is not waited for longer than a minute", async () => {
  browser([], { arrives: false });
  const asked = sendsFullRange();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(await asked).toBe(false);
  expect(closed).toEqual({ peers: 2, tracks: 1, contexts: 1 });
});

test("a browser that cannot be asked is as on television", async () => {
  vi.stubGlobal("MediaStreamTrackProcessor", undefined);
  expect(await sendsFullRange()).toBe(false);
});

test("so is one without WebGL, and one that cannot connect to itself", async () => {
  browser([frame(255)], { webgl: false });
  expect(await sendsFullRange()).toBe(false);
  browser([frame(255)], { negotiates: false });
  expect(await sendsFullRange()).toBe(false);
  expect(closed.peers).toBe(2);
});
