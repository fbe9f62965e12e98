/** Every text is there in both languages, and tells the same numbers and names in one as in the other. */
import { describe, expect, test } from "vitest";

import { en } from "./en";
import { operationsEn } from "./operations-en";
import { operationsZh } from "./operations-zh";
import { watchTexts } from "./watch";
import { zh } from "./zh";

type Text = string | ((...given: unknown[]) => string);

/** Each text of a table by its path, such as `stage.goLive`. */
function textsOf(tree: object, path = ""): Map<string, Text> {
  const found = new Map<string, Text>();
  for (const [key, value] of Object.entries(tree) as [string, Text | object][]) {
    const place = path ? `${path}.${key}` : key;
    if (typeof value !== "object") found.set(place, value);
    else for (const [one, text] of textsOf(value, place)) found.set(one, text);
  }
  return found;
}

/** Which of its arguments a text shows. Numbers fit every parameter: they are written as names are, and can be counted with. */
function shownBy(text: Text): number[] {
  if (typeof text === "string") return [];
  const given = [41, 52, 63];
  const said = text(...given);
  return given.filter((one) => said.includes(String(one)));
}

const shown = (texts: Map<string, Text>) =>
  Object.fromEntries([...texts].map(([key, text]) => [key, [typeof text, ...shownBy(text)]]));

const TABLES: [name: string, english: object, chinese: object][] = [
  ["en and zh", en, zh],
  // The service says these in English by itself; tests/unit/test_alert_words.py compares the Chinese ones with its codes.
  ["operations", { ...operationsEn, alertWords: {} }, { ...operationsZh, alertWords: {} }],
  ["watch", watchTexts.en, watchTexts.zh],
];

describe.each(TABLES)("%s", (_, english, chinese) => {
  const inEnglish = textsOf(english);
  const inChinese = textsOf(chinese);

  test("have the same keys", () => {
    expect([...inChinese.keys()].toSorted()).toEqual([...inEnglish.keys()].toSorted());
  });

  test("show the same names and numbers", () => {
    expect(shown(inChinese)).toEqual(shown(inEnglish));
  });

  test("leave nothing empty", () => {
    for (const texts of [inEnglish, inChinese])
      expect([...texts].filter(([, text]) => typeof text === "string" && !text.trim())).toEqual([]);
  });
});
