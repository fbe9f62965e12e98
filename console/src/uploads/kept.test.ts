/** What of another user's uploads is left in the browser's storage, where tus-js-client keeps their addresses. */
import { beforeEach, expect, test, vi } from "vitest";

import { fingerprint, forgetOthers } from "./kept";

let storage: Record<string, unknown>;

beforeEach(() => {
  storage = Object.defineProperties<Record<string, unknown>>(
    {},
    { removeItem: { value: (name: string) => delete storage[name] } },
  );
  vi.stubGlobal("localStorage", storage);
});

const file = { size: 7, lastModified: 1 } as File;
const of = (user: string) => `tus::${fingerprint(user, "vrm/a.vrm", file)}::123`;

test("a user finds no address of another one's uploads, also of one whose name begins alike", async () => {
  for (const name of [of("ren"), of("ren 2"), of("re"), "tus::tus-br-a.vrm-7::1", "butai.stage.r"]) storage[name] = "x";
  await forgetOthers("ren");
  expect(Object.keys(storage)).toEqual([of("ren"), "butai.stage.r"]);
  await forgetOthers(null);
  expect(Object.keys(storage)).toEqual(["butai.stage.r"]);
});
