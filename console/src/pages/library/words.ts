/** How what is inside files is said: in the reader's words, where there are some for it. */
import type { Texts } from "../../i18n/en";

/** How good news a term of a licence is for whoever wants to use the file: classes of badges. */
export function termClass(part: string, value: unknown): "good" | "warn" | "bad" | "plain" {
  const word = String(value);
  // That hatred is not welcome is no bad news.
  if (part === "antisocial" && word === "false") return "plain";
  if (["forbidden", "author", "false"].includes(word)) return part === "credit" ? "warn" : "bad";
  if (["licensee", "personal_non_profit", "personal_profit", "required"].includes(word)) return "warn";
  return "good";
}

/** The word for a value of a licence's part; what has none is shown as it is. */
export function term(t: Texts, part: string, value: unknown): string {
  const known = (t.assets.licence as Record<string, { values: Record<string, string> }>)[part];
  return known?.values[String(value)] ?? String(value).replaceAll("_", " ");
}

export function formatName(t: Texts, format: string): string {
  return (t.assets.formats as Record<string, string>)[format] ?? format.toUpperCase();
}

/** Why an upload or the reading of a file failed, by its code. */
export function reason(t: Texts, code: string | null | undefined, otherwise?: string | null): string {
  const texts: Record<string, string | undefined> = { ...t.problems, ...t.assets.reasons };
  return texts[code ?? ""] ?? otherwise ?? code ?? t.failed;
}

type Section = Record<string, unknown>;

/** What is told of each section of an asset's facts, in this order. Lists and numbers are written out by `written`. */
const TOLD: Record<string, readonly string[]> = {
  model: [
    "title",
    "authors",
    "version",
    "copyright",
    "contact",
    "spec_version",
    "triangles",
    "vertices",
    "meshes",
    "materials",
    "textures",
    "largest_image",
    "animations",
    "bones",
    "spring_bones",
    "generator",
  ],
  animation: ["names", "frames", "frame_time", "joints", "bones", "expressions", "look_at", "spec_version"],
  sound: [
    "title",
    "artist",
    "album",
    "year",
    "genre",
    "channels",
    "sample_rate",
    "bitrate",
    "loudness_lufs",
    "peak_dbfs",
  ],
  picture: ["resolution", "compression"],
};

/** The facts of a file as names and values to read. Nothing is shown by its key. */
export function factsOf(t: Texts, facts: Section, language: string): [name: string, value: string][] {
  const number = new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en-GB", { maximumFractionDigits: 1 });
  const names = t.assets.facts as Record<string, string>;
  const found: [string, string][] = [];
  for (const [section, told] of Object.entries(TOLD)) {
    const given = facts[section] as Section | undefined;
    if (!given) continue;
    for (const fact of told) {
      const value = fact === "resolution" ? [given.width, given.height] : given[fact];
      const text = written(t, fact, value, number);
      if (text) found.push([names[fact] ?? fact, text]);
    }
  }
  return found;
}

function written(t: Texts, fact: string, value: unknown, number: Intl.NumberFormat): string {
  if (value === null || value === undefined || value === "" || value === 0) return "";
  if (Array.isArray(value)) {
    if (!value.length || value.includes(undefined)) return "";
    if (fact === "largest_image" || fact === "resolution")
      return value.map((side) => number.format(Number(side))).join(" × ");
    if (fact === "bones") return number.format(value.length);
    return value.map(String).join(", ");
  }
  if (typeof value === "boolean") return value ? t.assets.yes : "";
  if (typeof value !== "number") return typeof value === "string" ? value : "";
  switch (fact) {
    case "frame_time":
      return number.format(1 / value);
    case "channels":
      return value === 1 ? t.assets.mono : value === 2 ? t.assets.stereo : t.assets.channels(value);
    case "sample_rate":
      return `${number.format(value / 1000)} kHz`;
    case "bitrate":
      return `${number.format(value)} kbit/s`;
    case "loudness_lufs":
      return `${number.format(value)} LUFS`;
    case "peak_dbfs":
      return `${number.format(value)} dBFS`;
    default:
      return number.format(value);
  }
}
