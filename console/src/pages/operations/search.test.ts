import * as fc from "fast-check";
import { expect, test } from "vitest";

import { FINDING_KINDS, JOB_STATES, readSearch, RESULTS, TABS } from "./search";

test("what the address says is read, each by its name", () => {
  const whole = {
    tab: "audit",
    room: "room-one",
    owner: "alice",
    show: "s1",
    kind: "mismatch",
    closed: true,
    status: "failed",
    task: "assets.inspect",
    actor: "root",
    action: "live.start",
    subject: "room:x",
    result: "refused",
    from: "2026-03-01T00:00:00.000Z",
    to: "2026-03-02T00:00:00.000Z",
  };
  expect(readSearch(whole)).toEqual(whole);
});

test.each([
  ["tab", TABS],
  ["kind", FINDING_KINDS],
  ["status", JOB_STATES],
  ["result", RESULTS],
] as const)("%s is one of those that there are", (name, known) => {
  for (const one of known) expect(readSearch({ [name]: one })).toEqual({ [name]: one });
  expect(readSearch({ [name]: "other" })).toEqual({});
});

test.each(["yesterday", "", "2026-13-01", 7_000_000_000_000_000, {}])("%j is no moment", (from) => {
  expect(readSearch({ from })).toEqual({});
});

test("a text is cut where the service would refuse it", () => {
  expect(readSearch({ room: "x".repeat(500) }).room).toHaveLength(200);
});

test("only what is asked for by true is asked for", () => {
  expect(readSearch({ closed: "true" })).toEqual({});
  expect(readSearch({ closed: false })).toEqual({});
});

test("whatever the address is, reading it again changes nothing", () => {
  const name = fc.constantFrom("tab", "room", "kind", "closed", "status", "from", "to", "result", "other");
  const value = fc.oneof(
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.constantFrom("jobs", "missing", "2026-03-01"),
    fc.jsonValue(),
  );
  fc.assert(
    fc.property(fc.dictionary(name, value), (given) => {
      const once = readSearch(given);
      expect(readSearch({ ...once })).toEqual(once);
      expect(Object.values(once)).not.toContain(undefined);
    }),
  );
});
