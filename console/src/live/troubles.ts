/** What does not work on the stage: at most one trouble of each part, gone as soon as the part is tried again. */
export interface Trouble {
  what: "3d" | "room" | "avatar" | "animation" | "background" | "music" | "camera" | "microphone";
  /** What was thrown; an `ApiError` and a `DOMException` have words of their own. */
  error: unknown;
}

export type Attempt = { kind: "begun"; what: Trouble["what"] } | ({ kind: "failed" } & Trouble);

/** The same array when nothing changes, so that nothing is rendered anew. */
export function troublesAfter(troubles: Trouble[], attempt: Attempt): Trouble[] {
  const others = troubles.filter((one) => one.what !== attempt.what);
  if (attempt.kind === "failed") return [...others, { what: attempt.what, error: attempt.error }];
  return others.length === troubles.length ? troubles : others;
}
