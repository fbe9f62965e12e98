import * as fc from "fast-check";
import { expect, test } from "vitest";

import { readSearch } from "./search";

test("what the address says is read, each by its name", () => {
  const whole = {
    type: "vrm",
    q: "Aoi",
    owner: "me",
    status: "failed",
    visibility: "private",
    trashed: true,
    commercial: "forbidden",
    redistribution: "allowed",
    modification: "allowed",
    credit: "required",
    format: "vrm1",
    tag: "box",
    sort: "-size",
    open: "0190",
  };
  expect(readSearch(whole)).toEqual(whole);
});

test.each([
  ["a type that there is not", { type: "avatar" }],
  ["somebody else's files", { owner: "alice" }],
  ["a state that there is not", { status: "lost" }],
  ["a visibility that there is not", { visibility: "all" }],
  ["an order that there is not", { sort: "colour" }],
  ["a trash that is not asked for", { trashed: false }],
  ["a trash asked for by a word", { trashed: "true" }],
  ["empty texts", { q: "", tag: "", open: "" }],
  ["texts that are none", { q: { a: 1 }, tag: ["x"], open: null }],
  ["names that nothing has", { page: 3, constructor: "x" }],
])("%s are as good as nothing", (_, given) => {
  expect(readSearch(given)).toEqual({});
});

test("a search for a number is a search for its text: the router reads numbers out of addresses", () => {
  expect(readSearch({ q: 2024, tag: 0 })).toEqual({ q: "2024", tag: "0" });
});

test("whatever the address is, reading it again changes nothing", () => {
  const name = fc.constantFrom("type", "q", "owner", "status", "visibility", "trashed", "tag", "sort", "open", "other");
  const value = fc.oneof(
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.constantFrom("vrm", "me", "ready", "-size"),
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
