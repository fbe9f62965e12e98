/** The uploads under way, at the foot of every page. What changes is read out, not each percent. */
import { Link } from "@tanstack/react-router";
import { useEffect, useRef, useState } from "react";

import { bytes, useTexts } from "../i18n";
import type { Texts } from "../i18n/en";
import { useUploadItems, useUploads } from "./context";
import type { Item } from "./queue";
import css from "./tray.module.css";

/** More lines than this help nobody; the heading counts them all. */
const LINES = 50;
const NEWS = 20;
const TOLD: readonly Item["state"][] = ["sending", "done", "known", "failed", "lost"];

export function UploadTray() {
  const { t } = useTexts();
  const items = useUploadItems();
  const { clear } = useUploads();
  const news = useNews(items);
  const left = items.filter((one) => ["waiting", "checking", "sending", "paused"].includes(one.state)).length;
  return (
    <>
      <div className="visually-hidden" role="log" aria-live="polite" data-testid="upload-news">
        {news.map(({ id, text }) => (
          <p key={id}>{text}</p>
        ))}
      </div>
      {items.length ? (
        <aside className={css.tray} aria-label={t.uploads.title}>
          <header>
            <h2>
              {t.uploads.title} <span className="dim">{left ? t.uploads.left(left) : ""}</span>
            </h2>
            <button type="button" className="quiet" onClick={clear}>
              {t.uploads.clear}
            </button>
          </header>
          <ul>
            {shownOf(items).map((item) => (
              <Line key={item.id} item={item} />
            ))}
          </ul>
        </aside>
      ) : null}
    </>
  );
}

function shownOf(items: readonly Item[]): readonly Item[] {
  if (items.length <= LINES) return items;
  const first = items.filter((one) => !["waiting", "done", "known"].includes(one.state));
  return [...first, ...items.filter((one) => !first.includes(one))].slice(0, LINES);
}

/** What has begun and ended lately, in words: a line each, which is read when it is added. */
function useNews(items: readonly Item[]): { id: number; text: string }[] {
  const { t } = useTexts();
  const told = useRef(new Map<string, string>());
  const next = useRef(1);
  const [news, setNews] = useState<{ id: number; text: string }[]>([]);
  useEffect(() => {
    const fresh = items.filter((one) => told.current.get(one.id) !== one.state && TOLD.includes(one.state));
    told.current = new Map(items.map((one) => [one.id, one.state]));
    if (!fresh.length) return;
    const lines = fresh.map((one) => ({
      id: next.current++,
      text: `${one.name}: ${one.state === "sending" ? t.states.uploading : said(one, t)}`,
    }));
    setNews((all) => [...all, ...lines].slice(-NEWS));
  }, [items, t]);
  return news;
}

function Line({ item }: { item: Item }) {
  const { t } = useTexts();
  const { pause, resume, cancel } = useUploads();
  const share = item.size ? Math.floor((100 * item.sent) / item.size) : 0;
  const busy = item.state === "sending" || item.state === "waiting" || item.state === "checking";
  const here = item.state === "done" || item.state === "known";
  const button = (word: string, act: (id: string) => void) => (
    <button type="button" className="quiet" aria-label={`${word}: ${item.name}`} onClick={() => act(item.id)}>
      {word}
    </button>
  );
  return (
    <li className={css.upload} data-state={item.state} data-kept={item.kept} data-sent={item.sent}>
      <div className={css.name} title={item.name}>
        {item.name}
      </div>
      <div className={css.state}>{said(item, t)}</div>
      {busy || item.state === "paused" ? <progress max={100} value={share} aria-label={item.name} /> : null}
      <div className={`row end ${css.actions}`}>
        {busy ? button(t.uploads.pause, pause) : null}
        {item.state === "paused" ? button(t.uploads.resume, resume) : null}
        {item.state === "failed" && item.key ? button(t.uploads.retry, resume) : null}
        {here && item.asset ? (
          <Link
            to="/library"
            search={{ open: item.asset }}
            className="button quiet"
            aria-label={`${t.uploads.open}: ${item.name}`}
          >
            {t.uploads.open}
          </Link>
        ) : null}
        {here
          ? null
          : button(item.state === "failed" || item.state === "lost" ? t.uploads.dismiss : t.uploads.cancel, cancel)}
      </div>
    </li>
  );
}

function said(item: Item, t: Texts): string {
  switch (item.state) {
    case "sending":
      return `${item.size ? Math.floor((100 * item.sent) / item.size) : 0} % · ${bytes(item.sent)} / ${bytes(item.size)}`;
    case "waiting":
      return t.uploads.waiting;
    case "checking":
      return t.uploads.checking;
    case "paused":
      return t.uploads.paused;
    case "done":
      return t.uploads.done;
    case "known":
      return t.uploads.known;
    case "lost":
      return t.uploads.chooseAgain;
    case "failed":
      return (t.assets.reasons as Record<string, string>)[item.code ?? ""] ?? item.reason ?? t.failed;
  }
}
