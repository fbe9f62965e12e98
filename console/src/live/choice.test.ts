import { beforeEach, describe, expect, test, vi } from "vitest";

import { claimStage, kept, NIGHT, pictureOf, releaseStage, setOnStage, wasOnStage, type Choice } from "./choice";

/** As much of a browser's storage as is used. */
function storage(): Storage {
  const all = new Map<string, string>();
  return {
    getItem: (key: string) => all.get(key) ?? null,
    setItem: (key: string, value: string) => void all.set(key, value),
    removeItem: (key: string) => void all.delete(key),
  } as Storage;
}

beforeEach(() => {
  vi.stubGlobal("localStorage", storage());
  vi.stubGlobal("sessionStorage", storage());
  return () => vi.unstubAllGlobals();
});

const remember = (values: unknown) => localStorage.setItem("butai.stage.r", JSON.stringify(values));

describe("what is chosen", () => {
  test("is the quiet beginning where nothing was", () => {
    expect(kept("r")).toMatchObject({
      avatar: null,
      background: NIGHT,
      camera: false,
      microphone: false,
      preset: "720p30",
    });
  });

  test("is what was chosen before; what is newer than that has its beginning", () => {
    remember({ volume: 0.2, preset: "1080p60" });
    expect(kept("r")).toMatchObject({ volume: 0.2, preset: "1080p60", light: false, destinations: null });
  });

  test("is each room's own", () => {
    remember({ volume: 0.2 });
    expect(kept("other").volume).toBe(0.5);
  });

  test("has camera and microphone on after a reload on stage, and off on another day", () => {
    remember({ camera: true, microphone: true });
    expect(kept("r")).toMatchObject({ camera: false, microphone: false });
    setOnStage("r", true);
    expect(kept("r")).toMatchObject({ camera: true, microphone: true });
  });

  test("is the beginning where what was kept is broken", () => {
    localStorage.setItem("butai.stage.r", "{");
    expect(kept("r")).toEqual(kept("never"));
  });
});

test("this tab and this browser remember that they were on stage, until they leave", () => {
  setOnStage("r", true);
  expect(wasOnStage("r")).toEqual({ here: true, ever: true });
  // Another tab, another day.
  vi.stubGlobal("sessionStorage", storage());
  expect(wasOnStage("r")).toEqual({ here: false, ever: true });
  setOnStage("r", false);
  expect(wasOnStage("r")).toEqual({ here: false, ever: false });
});

describe("the stage of a room", () => {
  type Request = (name: string, how: LockOptions, work: () => Promise<void>) => Promise<void>;
  const locksThat = (request: Request) => vi.stubGlobal("navigator", { locks: { request } });

  test("is free where the browser knows of no other tabs", async () => {
    vi.stubGlobal("navigator", {});
    expect(await claimStage("r", true)).toBe(true);
  });

  test("is taken from the tab that has it, and held until it is let go", async () => {
    const asked: LockOptions[] = [];
    let ended = false;
    locksThat(async (name, how, work) => {
      expect(name).toBe("butai.on-stage.r");
      asked.push(how);
      await work();
      ended = true;
    });
    expect(await claimStage("r", false)).toBe(true);
    expect(asked).toEqual([{ steal: true }]);
    await Promise.resolve();
    expect(ended).toBe(false);
    releaseStage();
    await vi.waitFor(() => expect(ended).toBe(true));
  });

  test("is left to the tab that has it where only a free one is wanted", async () => {
    locksThat((_, how) => {
      expect(how.steal).toBeUndefined();
      expect(how.signal).toBeInstanceOf(AbortSignal);
      return Promise.reject(new DOMException("timeout", "TimeoutError"));
    });
    expect(await claimStage("r", true)).toBe(false);
  });
});

test.each([
  ["480p30", false, { width: 854, height: 480, fps: 30 }],
  ["720p30", false, { width: 1280, height: 720, fps: 30 }],
  ["720p60", false, { width: 1280, height: 720, fps: 60 }],
  ["1080p30", false, { width: 1920, height: 1080, fps: 30 }],
  ["1080p60", false, { width: 1920, height: 1080, fps: 60 }],
  ["1080p60", true, { width: 640, height: 360, fps: 24 }],
] as const)("%s (small: %s) is drawn as %j", (preset, light, wanted) => {
  expect(pictureOf({ preset, light } as Choice)).toMatchObject(wanted);
});
