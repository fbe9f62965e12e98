/** Which answers say that a room is by invitation only, which that it is closed, and after which ones it is tried again. */
import { describe, expect, test } from "vitest";

import { ApiError, problemIn, problemOf } from "../api/http";
import { stateAfter } from "./refusal";

const answer = (status: number, code: string, retryAfter?: string) =>
  problemIn(status, JSON.stringify({ status, code, detail: "x" }), retryAfter);

describe("a viewer who was not let in", () => {
  test.each([
    [401, "auth_required", "refused", false],
    [403, "invitation_invalid", "refused", false],
    [404, "room_not_found", "refused", false],
    [409, "room_closed", "closed", false],
    [400, "invalid_request", "failed", false],
    [408, "request_timeout", "failed", true],
    [429, "rate_limited", "failed", true],
    [500, "internal", "failed", true],
    [503, "too_many_connections", "failed", true],
  ] as const)("%i %s: %s", (status, code, state, again) => {
    const error = answer(status, code);
    expect([stateAfter(error), error.isPassing]).toEqual([state, again]);
  });

  test("without an answer asks again", () => {
    const error = new ApiError(0, "unreachable", "");
    expect([stateAfter(error), error.isPassing]).toEqual(["failed", true]);
  });
});

test("when to ask again is the header's word", async () => {
  expect(answer(429, "rate_limited", "17").retryAfter).toBe(17);
  expect(answer(429, "rate_limited").retryAfter).toBeUndefined();
  const given = new Response("no JSON", { status: 503, headers: { "retry-after": "5" } });
  expect(await problemOf(given)).toMatchObject({ status: 503, code: "unexpected_answer", retryAfter: 5 });
});
