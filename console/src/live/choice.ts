/** What a host has chosen for a room: kept in this browser, so that a reload in mid-show finds all of it as it was. */
import { useCallback, useState } from "react";

import type { Preset } from "../api/live";

/** A file of the library, by the name that was shown when it was chosen. */
export interface Chosen {
  url: string;
  name: string;
  thumbnail: string | null;
}

export interface Choice {
  /** Null: the newest one. */
  avatar: Chosen | null;
  animation: Chosen | null;
  /** A colour (`#…`), or a sky. */
  background: string | Chosen;
  music: Chosen | null;
  /** 0 to 1. */
  volume: number;
  camera: boolean;
  microphone: boolean;
  preset: Preset;
  /** Draws fewer pixels than are sent: for computers that are too slow. */
  light: boolean;
  /** Ids of destinations. Null: all. */
  destinations: string[] | null;
}

export const NIGHT = "#20263a";

const NOTHING: Choice = {
  avatar: null,
  animation: null,
  background: NIGHT,
  music: null,
  volume: 0.5,
  camera: false,
  microphone: false,
  preset: "720p30",
  light: false,
  destinations: null,
};

const place = (room: string) => `butai.stage.${room}`;
const stepped = (room: string) => `butai.on-stage.${room}`;

/** What is chosen for a room, from what this browser remembers. */
export function kept(room: string): Choice {
  try {
    const found = { ...NOTHING, ...(JSON.parse(localStorage.getItem(place(room)) ?? "{}") as Partial<Choice>) };
    // A camera that goes on by itself is for a page that was reloaded, not for one that is opened another day.
    return wasOnStage(room).here ? found : { ...found, camera: false, microphone: false };
  } catch {
    return NOTHING;
  }
}

export function useChoice(room: string): [Choice, (values: Partial<Choice>) => void] {
  const [choice, set] = useState(() => kept(room));
  const change = useCallback(
    (values: Partial<Choice>) =>
      set((now) => {
        const next = { ...now, ...values };
        localStorage.setItem(place(room), JSON.stringify(next));
        return next;
      }),
    [room],
  );
  return [choice, change];
}

/** Whether this tab was on stage before it was reloaded, and whether this browser was when it was last here. */
export function wasOnStage(room: string): { here: boolean; ever: boolean } {
  return { here: sessionStorage.getItem(stepped(room)) !== null, ever: localStorage.getItem(stepped(room)) !== null };
}

export function setOnStage(room: string, on: boolean): void {
  if (!on) releaseStage();
  for (const storage of [sessionStorage, localStorage])
    if (on) storage.setItem(stepped(room), "1");
    else storage.removeItem(stepped(room));
}

let letGo: () => void = () => undefined;
/** Milliseconds that the page before a reload has for being gone. */
const GONE = 1500;

/** One tab of this browser has a room's stage. Takes it from the one that has it; or with `ifFree` only when none has, and
 * tells whether it has it now. Where the browser cannot know of other tabs, there are none. */
export function claimStage(room: string, ifFree: boolean): Promise<boolean> {
  const { locks } = navigator as { locks?: LockManager };
  if (!locks) return Promise.resolve(true);
  return new Promise((tell) => {
    locks
      .request(stepped(room), ifFree ? { signal: AbortSignal.timeout(GONE) } : { steal: true }, () => {
        tell(true);
        return new Promise<void>((done) => (letGo = done));
      })
      .catch(() => tell(false));
  });
}

/** The page is left: another tab may have the stage. */
export const releaseStage = () => letGo();

/** The canvas for a quality. */
export function pictureOf(choice: Choice): { width: number; height: number; fps: number; bitrate: number } {
  const fps = choice.preset.endsWith("60") ? 60 : 30;
  if (choice.light) return { width: 640, height: 360, fps: 24, bitrate: 1_500_000 };
  if (choice.preset.startsWith("1080")) return { width: 1920, height: 1080, fps, bitrate: 7_000_000 };
  if (choice.preset === "480p30") return { width: 854, height: 480, fps, bitrate: 2_000_000 };
  return { width: 1280, height: 720, fps, bitrate: 4_500_000 };
}
