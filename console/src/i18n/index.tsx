/** The language of the page: the reader's choice, else the browser's. `t` is the table of texts. */
import { createContext, useContext, useEffect, useMemo, useState, type ReactNode } from "react";

import { askIn } from "../api/http";
import { en, type Texts } from "./en";
import { zh } from "./zh";

export type Language = "en" | "zh";
const TABLES: Record<Language, Texts> = { en, zh };
const KEPT = "butai.language";

interface Spoken {
  language: Language;
  t: Texts;
  speak: (language: Language) => void;
}

const Context = createContext<Spoken>({ language: "en", t: en, speak: () => undefined });

function first(): Language {
  const kept = localStorage.getItem(KEPT);
  if (kept === "en" || kept === "zh") return kept;
  return navigator.languages.some((tag) => tag.toLowerCase().startsWith("zh")) ? "zh" : "en";
}

export function LanguageProvider({ children }: { children: ReactNode }) {
  const [language, speak] = useState<Language>(first);
  // Before any child asks the service.
  askIn(language);
  useEffect(() => {
    document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
    localStorage.setItem(KEPT, language);
  }, [language]);
  const spoken = useMemo(() => ({ language, t: TABLES[language], speak }), [language]);
  return <Context value={spoken}>{children}</Context>;
}

export function useTexts(): Spoken {
  return useContext(Context);
}

/** Bytes as people read them. */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let left = value;
  while (left >= 1000 && unit < units.length - 1) {
    left /= 1000;
    unit += 1;
  }
  return `${left < 10 && unit > 0 ? left.toFixed(1) : Math.round(left)} ${units[unit]}`;
}

/** Seconds as 1:02 or 1:02:03. */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, place) => (place ? String(part).padStart(2, "0") : String(part))).join(":");
}

export function when(moment: string | null | undefined, language: Language): string {
  if (!moment) return "–";
  return new Date(moment).toLocaleString(language === "zh" ? "zh-CN" : "en-GB", {
    dateStyle: "medium",
    timeStyle: "medium",
  });
}
