/** A class that is misspelt is no error anywhere, and one that nothing has is never missed: so both are looked for. */
import { expect, test } from "vitest";

const sheets = import.meta.glob<string>("../**/*.module.css", { query: "?raw", import: "default", eager: true });
const scripts = import.meta.glob<string>(["../**/*.tsx", "../**/*.ts", "!../**/*.test.ts"], {
  query: "?raw",
  import: "default",
  eager: true,
});

const all = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map((found) => found[1] ?? "");

/** The classes that a sheet has of its own. */
function classesIn(sheet: string): Set<string> {
  const selectors = sheet
    .replaceAll(/\/\*[\s\S]*?\*\//g, "")
    .replaceAll(/:global\([^)]*\)/g, "")
    .replaceAll(/\{[^{}]*\}/g, "{}");
  return new Set(all(selectors, /\.([A-Za-z][\w-]*)/g));
}

/** What scripts and other sheets take from a sheet: `css.name`, or `composes: name from "./sheet.module.css"`. */
function takenFrom(path: string): Set<string> {
  const file = path.split("/").at(-1) ?? "";
  const folder = path.slice(0, -file.length);
  const taken = new Set<string>();
  for (const [script, text] of Object.entries(scripts)) {
    const [as] = script.startsWith(folder) ? all(text, new RegExp(`import (\\w+) from "\\./${file}"`, "g")) : [];
    if (as) for (const one of all(text, new RegExp(`\\b${as}\\.(\\w+)`, "g"))) taken.add(one);
  }
  for (const [sheet, text] of Object.entries(sheets))
    if (sheet.startsWith(folder))
      for (const one of all(text, new RegExp(`composes: (\\w+) from "\\./${file}"`, "g"))) taken.add(one);
  return taken;
}

test.each(Object.entries(sheets))("%s has the classes that are taken from it, and no others", (path, sheet) => {
  expect([...takenFrom(path)].toSorted()).toEqual([...classesIn(sheet)].toSorted());
});
