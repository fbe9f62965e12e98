import * as fc from "fast-check";
import { describe, expect, test } from "vitest";

import { isBusy, isOver, next, type Effect, type Event, type Item, type Offered, type UploadState } from "./queue";

const STATES: UploadState[] = ["waiting", "checking", "sending", "paused", "done", "known", "failed", "lost"];

/** An upload of the second attempt, so that there was one before it. */
function item(state: UploadState, values: Partial<Item> = {}): Item {
  return { id: "a", name: "A.vrm", key: "vrm/A.vrm", size: 100, sent: 10, state, kept: true, run: 2, ...values };
}

const offered = (id: string, values: Partial<Offered> = {}): Offered => ({
  id,
  name: `${id}.vrm`,
  size: 100,
  key: `vrm/${id}.vrm`,
  ...values,
});

function after(items: readonly Item[], ...events: Event[]): { items: readonly Item[]; effects: Effect[] } {
  return events.reduce<{ items: readonly Item[]; effects: Effect[] }>(
    ({ items: now, effects }, event) => {
      const step = next(now, event);
      return { items: step.items, effects: [...effects, ...step.effects] };
    },
    { items, effects: [] },
  );
}

/** What becomes of one upload: its state (null: gone) and what is done, in words. Nothing listed: nothing changes. */
type Outcome = [state: UploadState | null, ...effects: string[]];
const told = (effects: Effect[]) =>
  effects.map((one) => (one.do === "mark" ? `mark ${one.paused ? "paused" : "running"}` : one.do));

/** Every event in every state. `running`: of the attempt that is under way; `old`: of the one before. */
const TABLE: [name: string, event: Event, outcomes: Partial<Record<UploadState, Outcome>>][] = [
  [
    "pause",
    { type: "pause", id: "a" },
    {
      waiting: ["paused", "mark paused"],
      checking: ["paused", "stop", "mark paused"],
      sending: ["paused", "stop", "mark paused"],
    },
  ],
  [
    "resume",
    { type: "resume", id: "a" },
    // It waits for no more than a free place, and there is one.
    { paused: ["checking", "mark running", "begin"], failed: ["checking", "mark running", "begin"] },
  ],
  [
    "cancel",
    { type: "cancel", id: "a" },
    {
      waiting: [null, "discard"],
      checking: [null, "discard"],
      sending: [null, "discard"],
      paused: [null, "discard"],
      done: [null],
      known: [null],
      failed: [null, "discard"],
      lost: [null, "discard"],
    },
  ],
  ["clear", { type: "clear" }, { done: [null], known: [null], failed: [null, "discard"], lost: [null, "discard"] }],
  ["online", { type: "online" }, { failed: ["checking", "mark running", "begin"] }],
  ["kept", { type: "kept", id: "a", whole: true }, {}],
  ["sending, running", { type: "sending", id: "a", run: 2 }, { checking: ["sending"] }],
  ["sending, old", { type: "sending", id: "a", run: 1 }, {}],
  ["progress, running", { type: "progress", id: "a", run: 2, sent: 50 }, { sending: ["sending"] }],
  ["progress, old", { type: "progress", id: "a", run: 1, sent: 50 }, {}],
  [
    "succeeded, running",
    { type: "succeeded", id: "a", run: 2, asset: "x" },
    {
      waiting: ["done", "forget", "refresh"],
      checking: ["done", "forget", "refresh"],
      sending: ["done", "forget", "refresh"],
      paused: ["done", "forget", "refresh"],
    },
  ],
  [
    "succeeded, old",
    { type: "succeeded", id: "a", run: 1, asset: "x" },
    {
      waiting: ["done", "forget", "refresh"],
      checking: ["done", "stop", "forget", "refresh"],
      sending: ["done", "stop", "forget", "refresh"],
      paused: ["done", "forget", "refresh"],
    },
  ],
  [
    "known, running",
    { type: "known", id: "a", run: 2, asset: "x" },
    {
      waiting: ["known", "forget", "refresh"],
      checking: ["known", "forget", "refresh"],
      sending: ["known", "forget", "refresh"],
      paused: ["known", "forget", "refresh"],
    },
  ],
  [
    "known, old",
    { type: "known", id: "a", run: 1, asset: "x" },
    {
      waiting: ["known", "forget", "refresh"],
      checking: ["known", "stop", "forget", "refresh"],
      sending: ["known", "stop", "forget", "refresh"],
      paused: ["known", "forget", "refresh"],
    },
  ],
  [
    "failed, running",
    { type: "failed", id: "a", run: 2, code: "upload_refused", reason: "no" },
    { checking: ["failed"], sending: ["failed"] },
  ],
  ["failed, old", { type: "failed", id: "a", run: 1, code: "upload_refused", reason: "no" }, {}],
];

describe.each(TABLE)("%s", (_, event, outcomes) => {
  test.each(STATES)("while %s", (state) => {
    // Another one holds back what waits: three at a time.
    const others = ["x", "y", "z"].map((id) => item("sending", { id, key: `vrm/${id}` }));
    const queue = [
      ...(state === "waiting" ? others : []),
      item(state, { code: state === "failed" ? "unreachable" : undefined }),
    ];
    const { items, effects } = next(queue, event);
    const outcome = outcomes[state];
    if (!outcome) {
      expect(items).toBe(queue);
      expect(effects).toEqual([]);
      return;
    }
    const [wanted, ...done] = outcome;
    expect(items.find((one) => one.id === "a")?.state ?? null).toBe(wanted);
    expect(told(effects)).toEqual(done);
  });
});

describe("files that are added", () => {
  test("are held, and three of them begin", () => {
    const { items, effects } = next([], { type: "added", files: ["a", "b", "c", "d"].map((id) => offered(id)) });
    expect(items.map((one) => one.state)).toEqual(["checking", "checking", "checking", "waiting"]);
    expect(told(effects)).toEqual(["take", "take", "take", "take", "begin", "begin", "begin"]);
  });

  test("of one key go one after the other", () => {
    const files = [offered("a", { key: "vrm/same" }), offered("b", { key: "vrm/same" }), offered("c")];
    const both = next([], { type: "added", files }).items;
    expect(both.map((one) => one.state)).toEqual(["checking", "waiting", "checking"]);
    const { items } = next(both, { type: "succeeded", id: "a", run: 1, asset: "x" });
    expect(items.map((one) => one.state)).toEqual(["done", "checking", "checking"]);
  });

  test("of a kind that is not stored are refused, and hold nothing", () => {
    const { items, effects } = next([], { type: "added", files: [offered("a", { key: null })] });
    expect(items).toMatchObject([{ state: "failed", code: "type_unsupported", key: "" }]);
    expect(effects).toEqual([]);
    expect(next(items, { type: "resume", id: "a" }).items).toBe(items);
    expect(after(items, { type: "cancel", id: "a" })).toEqual({ items: [], effects: [] });
  });

  test.each(["done", "known", "failed", "lost"] as const)("take the place of one of their key that is %s", (state) => {
    const earlier = item(state, { size: 1 });
    const { items, effects } = next([earlier], { type: "added", files: [offered("b", { key: earlier.key })] });
    expect(items.map((one) => one.id)).toEqual(["b"]);
    expect(effects.filter((one) => one.do === "forget")).toEqual(
      state === "failed" || state === "lost" ? [{ do: "forget", id: "a" }] : [],
    );
  });

  test.each(["waiting", "sending", "paused"] as const)("stand beside one of their key that is %s", (state) => {
    const { items } = next([item(state)], { type: "added", files: [offered("b", { key: "vrm/A.vrm" })] });
    expect(items.map((one) => one.id)).toEqual(["a", "b"]);
  });

  test("go on for one that was lost with a reload, if they are as large", () => {
    const lost = item("lost", { kept: false, run: 0 });
    const { items, effects } = next([lost], {
      type: "added",
      files: [offered("b", { key: lost.key }), offered("c", { key: lost.key })],
    });
    expect(items.map((one) => [one.id, one.state])).toEqual([
      ["a", "checking"],
      ["c", "waiting"],
    ]);
    expect(effects[0]).toEqual({ do: "take", id: "a", offered: "b", name: "b.vrm", key: lost.key, size: 100 });
    expect(told(effects)).not.toContain("forget");
  });
});

describe("what is found after a reload", () => {
  const found = { type: "found", id: "a", name: "A.vrm", key: "vrm/A.vrm", size: 100 } as const;

  test.each([
    ["goes on", { paused: false, hasFile: true }, "checking"],
    ["stays paused", { paused: true, hasFile: true }, "paused"],
    ["has to be chosen again without its file", { paused: false, hasFile: false }, "lost"],
    ["has to be chosen again without its file, paused or not", { paused: true, hasFile: false }, "lost"],
  ] as const)("%s", (_, how, state) => {
    const { items } = next([], { ...found, ...how });
    expect(items).toMatchObject([{ state, kept: how.hasFile }]);
  });

  test.each(STATES.filter((one) => one !== "lost"))("is nothing new while it is %s here", (state) => {
    const items = [item(state)];
    expect(next(items, { ...found, paused: false, hasFile: true }).items).toBe(items);
  });

  test("is there at last when it was lost", () => {
    const { items } = next([item("lost")], { ...found, paused: false, hasFile: true });
    expect(items).toMatchObject([{ state: "checking" }]);
  });
});

describe("late news", () => {
  const gone = next([item("sending")], { type: "cancel", id: "a" }).items;

  test.each(TABLE.filter(([, event]) => "id" in event))("of one that was removed: %s", (_, event) => {
    expect(after(gone, event)).toEqual({ items: [], effects: [] });
  });

  test("progress after a pause changes nothing, nor does its failure", () => {
    const paused = next([item("sending")], { type: "pause", id: "a" }).items;
    expect(next(paused, { type: "progress", id: "a", run: 2, sent: 99 }).items).toBe(paused);
    expect(next(paused, { type: "failed", id: "a", run: 2, code: "unreachable" }).items).toBe(paused);
  });

  test("of the attempt before a pause is not taken for that after it", () => {
    const resumed = after([item("sending")], { type: "pause", id: "a" }, { type: "resume", id: "a" }).items;
    expect(resumed).toMatchObject([{ state: "checking", run: 3 }]);
    for (const event of [
      { type: "sending", id: "a", run: 2 },
      { type: "progress", id: "a", run: 2, sent: 99 },
      { type: "failed", id: "a", run: 2, code: "unreachable" },
    ] as const)
      expect(next(resumed, event).items).toBe(resumed);
  });
});

test("only what failed for want of a connection goes on when there is one", () => {
  const items = [item("failed", { code: "unreachable" }), item("failed", { id: "b", key: "k", code: "glb_invalid" })];
  expect(next(items, { type: "online" }).items.map((one) => one.state)).toEqual(["checking", "failed"]);
});

test("what is tried again has no reason to have failed", () => {
  const { items } = next([item("failed", { code: "x", reason: "y" })], { type: "resume", id: "a" });
  expect(items[0]).toMatchObject({ code: undefined, reason: undefined });
});

/** Walks: any events in any order, as a person and a network make them, with news of attempts that are long over. */
const IDS = ["a", "b", "c", "d", "e"];
const KEYS = ["k1", "k2", "k3", "k4", null];
const id = fc.constantFrom(...IDS);
const run = fc.integer({ min: 1, max: 4 });
const size = fc.constantFrom(100, 200);
const anyEvent: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc
      .uniqueArray(fc.record({ id, size, key: fc.constantFrom(...KEYS) }), { maxLength: 4, selector: (one) => one.id })
      .map((files) => ({ type: "added" as const, files: files.map((one) => ({ ...one, name: one.id })) })),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      type: fc.constant("found" as const),
      id,
      name: fc.constant("x"),
      key: fc.constantFrom("k1", "k2", "k3", "k4"),
      size,
      paused: fc.boolean(),
      hasFile: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ type: fc.constantFrom("pause" as const, "resume" as const, "cancel" as const), id }),
  },
  { weight: 1, arbitrary: fc.constantFrom<Event>({ type: "clear" }, { type: "online" }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("kept" as const), id, whole: fc.boolean() }) },
  { weight: 4, arbitrary: fc.record({ type: fc.constant("sending" as const), id, run }) },
  {
    weight: 2,
    arbitrary: fc.record({ type: fc.constant("progress" as const), id, run, sent: fc.integer({ min: 0, max: 100 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constantFrom("succeeded" as const, "known" as const),
      id,
      run,
      asset: fc.constant("x"),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant("failed" as const),
      id,
      run,
      code: fc.constantFrom("unreachable", "glb_invalid"),
    }),
  },
);

test("whatever happens, the rules of the queue hold and what is held is what can still be sent", () => {
  const seen = new Set<UploadState>();
  fc.assert(
    fc.property(fc.array(anyEvent, { maxLength: 60 }), (events) => {
      let items: readonly Item[] = [];
      /** As the runner has them: the files, and the attempts that run. */
      const held = new Set<string>();
      const running = new Map<string, number>();
      for (const event of events) {
        // Chosen files have ids that were never there, and the runner looks for no file that it holds.
        if (event.type === "added" && event.files.some((file) => items.some((one) => one.id === file.id))) continue;
        if (event.type === "found" && held.has(event.id)) continue;
        const before = items;
        const step = next(items, event);
        items = step.items;
        if (items === before) expect(step.effects).toEqual([]);
        else if (event.type === "found" && event.hasFile) held.add(event.id);
        for (const effect of step.effects) {
          if (effect.do === "take") held.add(effect.id);
          if (effect.do === "begin") {
            expect(held).toContain(effect.id);
            expect(running.has(effect.id)).toBe(false);
            running.set(effect.id, effect.run);
          }
          if (effect.do === "stop" || effect.do === "forget" || effect.do === "discard") running.delete(effect.id);
          if (effect.do === "forget" || effect.do === "discard") held.delete(effect.id);
        }
        // An attempt that has failed runs no more.
        for (const one of items) if (one.state === "failed") running.delete(one.id);

        expect(new Set(items.map((one) => one.id)).size).toBe(items.length);
        const busy = items.filter(isBusy);
        const keys = new Set(busy.map((one) => one.key));
        expect(busy.length).toBeLessThanOrEqual(3);
        expect(keys.size).toBe(busy.length);
        expect(new Map(busy.map((one) => [one.id, one.run]))).toEqual(running);
        // Nothing waits that could run.
        if (busy.length < 3) for (const one of items) if (one.state === "waiting") expect(keys).toContain(one.key);
        const sendable = items.filter((one) => !isOver(one) || (one.state === "failed" && one.key !== ""));
        expect(new Set(sendable.map((one) => one.id))).toEqual(held);
        for (const one of items) {
          seen.add(one.state);
          if (one.state === "done" || one.state === "known") expect(one.asset).toBe("x");
        }
      }
    }),
    { numRuns: 500 },
  );
  expect([...seen].toSorted()).toEqual(STATES.toSorted());
});
