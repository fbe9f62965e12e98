import { renderToStaticMarkup } from "react-dom/server";
import { expect, test } from "vitest";

import { when } from "../../i18n";
import { Occurred } from "./audit";

const AT = "2026-11-29T10:00:01Z";
const LAST = "2026-11-29T10:00:59Z";

test("an act that is counted shows how often it was done, and when last", () => {
  const shown = renderToStaticMarkup(<Occurred entry={{ at: AT, last_at: LAST, times: 12 }} />);
  expect(shown).toContain(`>${when(AT, "en")}</time>`);
  expect(shown).toContain(`12 times, last at ${when(LAST, "en")}<`);
});

test("an act by itself shows its time alone", () => {
  const shown = renderToStaticMarkup(<Occurred entry={{ at: AT, last_at: AT, times: 1 }} />);
  expect(shown).toBe(`<time dateTime="${AT}">${when(AT, "en")}</time>`);
});
