import { expect, test } from "vitest";

import { troublesAfter, type Trouble } from "./troubles";

const error = new Error("gone");

test("a part that failed is told of once, by its last error", () => {
  const first = troublesAfter([], { kind: "failed", what: "music", error: new Error("earlier") });
  expect(troublesAfter(first, { kind: "failed", what: "music", error })).toEqual([{ what: "music", error }]);
});

test("a part that is tried again has no trouble until it fails again; others keep theirs", () => {
  const troubles: Trouble[] = [
    { what: "camera", error },
    { what: "avatar", error },
  ];
  expect(troublesAfter(troubles, { kind: "begun", what: "camera" })).toEqual([{ what: "avatar", error }]);
});

test("nothing is rendered anew for a part that was well", () => {
  const troubles: Trouble[] = [{ what: "camera", error }];
  expect(troublesAfter(troubles, { kind: "begun", what: "room" })).toBe(troubles);
});
