/**
 * The queue of uploads: what each is about, and what is to be done when something happens. Pure: `next` decides, `runner.ts`
 * does. What still runs of an upload that was stopped may tell of itself later; such news is told apart by its `run`.
 */
export type UploadState = "waiting" | "checking" | "sending" | "paused" | "done" | "known" | "failed" | "lost";

export interface Item {
  id: string;
  name: string;
  /** The wanted key; empty for a file of a kind that is not stored. */
  key: string;
  size: number;
  /** Bytes that the service has. */
  sent: number;
  state: UploadState;
  /** Whether a reload would find the file again. */
  kept: boolean;
  /** Which attempt this is or was, from 1; 0 before the first. */
  run: number;
  /** The asset's id, once the file is stored. */
  asset?: string;
  /** Why it failed: a code that the texts know, and words for those that they do not. */
  code?: string;
  reason?: string;
}

/** A file that was chosen; `key` is null for a kind that is not stored. */
export interface Offered {
  id: string;
  name: string;
  size: number;
  key: string | null;
}

export type Event =
  | { type: "added"; files: Offered[] }
  /** What was under way when the page was left. Without its file it has to be chosen again. */
  | { type: "found"; id: string; name: string; key: string; size: number; paused: boolean; hasFile: boolean }
  | { type: "kept"; id: string; whole: boolean }
  | { type: "pause" | "resume" | "cancel"; id: string }
  | { type: "clear" }
  /** There is a connection again. */
  | { type: "online" }
  | { type: "sending"; id: string; run: number }
  | { type: "progress"; id: string; run: number; sent: number }
  /** `known`: the service had a file with this content. */
  | { type: "succeeded" | "known"; id: string; run: number; asset?: string }
  | { type: "failed"; id: string; run: number; code?: string; reason?: string };

export type Effect =
  /** Hold the file that was offered as `offered`, and keep it in the browser, under `id`. */
  | { do: "take"; id: string; offered: string; name: string; key: string; size: number }
  /** Hash it, ask whether it is known, send it; tell of all that with this `run`. */
  | { do: "begin"; id: string; run: number; key: string }
  /** End the attempt; it will go on from where it stands. */
  | { do: "stop"; id: string }
  /** Note in the browser whether it goes on by itself after a reload. */
  | { do: "mark"; id: string; paused: boolean }
  /** Let go of the file, here and in the browser. */
  | { do: "forget"; id: string }
  /** The same, and the service forgets what it has of it. */
  | { do: "discard"; id: string }
  /** Ask for the lists again. */
  | { do: "refresh" };

export interface Step {
  items: readonly Item[];
  effects: Effect[];
}

const AT_ONCE = 3;
const BUSY: ReadonlySet<UploadState> = new Set(["checking", "sending"]);
const OVER: ReadonlySet<UploadState> = new Set(["done", "known", "failed", "lost"]);

export const isBusy = (item: Item) => BUSY.has(item.state);
export const isOver = (item: Item) => OVER.has(item.state);

/** The items after `event`, and what is to be done, in this order. The same array when nothing has changed. */
export function next(items: readonly Item[], event: Event): Step {
  const { items: changed, effects } = decided(items, event);
  if (changed === items) return { items, effects };
  const begun = begin(changed);
  return { items: begun.items, effects: [...effects, ...begun.effects] };
}

function decided(items: readonly Item[], event: Event): Step {
  switch (event.type) {
    case "added":
      return added(items, event.files);
    case "found":
      return found(items, event);
    case "clear":
      return without(items, isOver);
    case "online":
      return online(items);
    case "kept":
    case "pause":
    case "resume":
    case "cancel":
    case "sending":
    case "progress":
    case "succeeded":
    case "known":
    case "failed": {
      const item = items.find((one) => one.id === event.id);
      // It was removed, and what ran of it tells of itself.
      return item ? ofOne(items, item, event) : { items, effects: [] };
    }
  }
}

type OfOne = Exclude<Event, { type: "added" | "found" | "clear" | "online" }>;

function ofOne(items: readonly Item[], item: Item, event: OfOne): Step {
  const { id } = item;
  const same = { items, effects: [] };
  const change = (values: Partial<Item>, ...effects: Effect[]): Step => ({
    items: items.map((one) => (one.id === id ? { ...one, ...values } : one)),
    effects,
  });
  switch (event.type) {
    case "kept":
      return item.kept === event.whole ? same : change({ kept: event.whole });
    case "pause":
      if (isBusy(item)) return change({ state: "paused" }, { do: "stop", id }, { do: "mark", id, paused: true });
      return item.state === "waiting" ? change({ state: "paused" }, { do: "mark", id, paused: true }) : same;
    case "resume":
      return mayResume(item) ? change(RESUMED, { do: "mark", id, paused: false }) : same;
    case "cancel":
      return without(items, (one) => one.id === id);
    case "sending":
      return item.state === "checking" && item.run === event.run ? change({ state: "sending" }) : same;
    case "progress":
      // What comes after a pause, or of an attempt before this one, says nothing of this one.
      return item.state === "sending" && item.run === event.run && item.sent !== event.sent
        ? change({ sent: event.sent })
        : same;
    case "succeeded":
    case "known": {
      // The service has the file, whichever attempt it came by: also when it was paused meanwhile, or begun anew.
      if (isOver(item)) return same;
      const stop: Effect[] = isBusy(item) && item.run !== event.run ? [{ do: "stop", id }] : [];
      return change(
        { state: event.type === "known" ? "known" : "done", asset: event.asset },
        ...stop,
        { do: "forget", id },
        { do: "refresh" },
      );
    }
    case "failed":
      return isBusy(item) && item.run === event.run
        ? change({ state: "failed", code: event.code, reason: event.reason })
        : same;
  }
}

const RESUMED: Partial<Item> = { state: "waiting", code: undefined, reason: undefined };

/** A file of a kind that is not stored never can. */
const mayResume = (item: Item) => item.state === "paused" || (item.state === "failed" && item.key !== "");

/** Behind the others; each takes the place of an earlier one of its key that is over, and goes on for one that was lost. */
function added(items: readonly Item[], files: Offered[]): Step {
  let left = items;
  const fresh: Item[] = [];
  const effects: Effect[] = [];
  for (const file of files) {
    const plain = { name: file.name, size: file.size, sent: 0, kept: false, run: 0 };
    const key = file.key ?? "";
    const lost = left.find((one) => one.state === "lost" && one.key === key && one.size === file.size);
    const id = lost?.id ?? file.id;
    const before = without(left, (one) => isOver(one) && one.key === key);
    left = before.items;
    // The service keeps what it has of the earlier one: the same file goes on from there.
    for (const effect of before.effects)
      if ("id" in effect && effect.id !== id) effects.push({ do: "forget", id: effect.id });
    if (file.key === null) {
      fresh.push({ ...plain, id, key, state: "failed", code: "type_unsupported" });
    } else {
      fresh.push({ ...plain, id, key, state: "waiting" });
      effects.push({ do: "take", id, offered: file.id, name: file.name, key, size: file.size });
    }
  }
  return fresh.length ? { items: [...left, ...fresh], effects } : { items, effects };
}

function found(items: readonly Item[], event: Extract<Event, { type: "found" }>): Step {
  const { id, name, key, size, paused, hasFile } = event;
  const there = items.find((one) => one.id === id);
  if (there && there.state !== "lost") return { items, effects: [] };
  const state = !hasFile ? "lost" : paused ? "paused" : "waiting";
  const item: Item = { id, name, key, size, sent: 0, state, kept: hasFile, run: 0 };
  return { items: [...items.filter((one) => one.id !== id), item], effects: [] };
}

/** What failed for want of a connection goes on. */
function online(items: readonly Item[]): Step {
  const again = new Set(
    items.filter((one) => one.state === "failed" && one.code === "unreachable").map((one) => one.id),
  );
  if (!again.size) return { items, effects: [] };
  return {
    items: items.map((one) => (again.has(one.id) ? { ...one, ...RESUMED } : one)),
    effects: [...again].map((id) => ({ do: "mark", id, paused: false })),
  };
}

/** Without some; what is not stored yet is discarded. */
function without(items: readonly Item[], which: (item: Item) => boolean): Step {
  const gone = items.filter(which);
  if (!gone.length) return { items, effects: [] };
  return {
    items: items.filter((one) => !which(one)),
    effects: gone
      .filter((one) => one.state !== "done" && one.state !== "known" && one.key !== "")
      .map((one) => ({ do: "discard", id: one.id })),
  };
}

/** At most so many at a time, and never two of one key; the next begins when one ends. */
function begin(items: readonly Item[]): Step {
  const busy = items.filter(isBusy);
  const keys = new Set(busy.map((one) => one.key));
  let free = AT_ONCE - busy.length;
  const effects: Effect[] = [];
  const after = items.map((one) => {
    if (free <= 0 || one.state !== "waiting" || keys.has(one.key)) return one;
    free -= 1;
    keys.add(one.key);
    const run = one.run + 1;
    effects.push({ do: "begin", id: one.id, run, key: one.key });
    return { ...one, state: "checking" as const, run };
  });
  return effects.length ? { items: after, effects } : { items, effects };
}
