/** What went wrong, in words for the reader. */
import { ApiError } from "../api/http";
import type { Texts } from "./en";

/**
 * With what to do, where the service has said so in the reader's language; else by its code. A code without a text here, such
 * as `invalid_request`, has only the service's own words, which name the value that was wrong.
 */
export function problemText(error: unknown, t: Texts): string {
  if (!(error instanceof ApiError)) return t.failed;
  if (error.action) return `${error.message} ${error.action}`;
  return (t.problems as Record<string, string | undefined>)[error.code] ?? error.message;
}
