/**
 * A room's show as it happens. The service tells by server-sent events. Each second without any is counted: after a few of
 * them the page asks, and when there is no answer it says that what it shows may be old.
 */
import { useCallback, useEffect, useEffectEvent, useReducer } from "react";

import { eventsOf, getStatus, isOnAir, type EventOut, type Figures, type StatusOut } from "../api/live";
import { ApiError, problemOf } from "../api/http";
import { useTexts, type Language } from "../i18n";
import { sentBy } from "./event-stream";

export interface Show {
  /** Null until the first answer. */
  status: StatusOut | null;
  timeline: EventOut[];
  figures: Figures;
  /** `waiting` for the first news; `old`: the service does not answer, so what is shown may not be so any more. */
  news: "waiting" | "fresh" | "old";
  /** Why this room is not ours to look at. */
  refused: ApiError | null;
  /** Milliseconds by which the service's clock is ahead of ours. */
  ahead: number;
  /** The highest number of an event that is in `status`. */
  seen: number;
}

type News =
  | { kind: "status"; status: StatusOut }
  | { kind: "answer"; status: StatusOut }
  | { kind: "change"; event: EventOut; status: StatusOut | null }
  | { kind: "metrics"; figures: Figures }
  | { kind: "news"; news: Show["news"] }
  | { kind: "ahead"; ahead: number }
  | { kind: "refused"; error: ApiError };

const EMPTY: Show = { status: null, timeline: [], figures: {}, news: "waiting", refused: null, ahead: 0, seen: 0 };
const KEPT = 300;
/** Milliseconds: between two tries; of silence after which the page asks by itself, on air (figures come each second) and
 * off (the service says "still here" each 15 s); for which an answer is waited for. */
const AGAIN = 1000;
const SILENCE = 2500;
const SILENCE_OFF_AIR = 20_000;
const PATIENCE = 2500;
/** A difference below this is the network's, and that of a header that has no parts of seconds. */
const SAME_CLOCK = 2000;

const highest = (events: EventOut[]) => events.reduce((most, event) => Math.max(most, event.id), 0);

function next(show: Show, news: News): Show {
  switch (news.kind) {
    case "status":
    case "answer": {
      const { status } = news;
      const other = status.session_id !== show.status?.session_id;
      const seen = highest(status.timeline);
      // An answer may have been overtaken by events that tell of a later state.
      if (news.kind === "answer" && seen < show.seen) return show;
      return {
        ...show,
        status,
        timeline: merged(other ? [] : show.timeline, status.timeline),
        figures: other ? {} : show.figures,
        seen: Math.max(show.seen, seen),
        refused: null,
      };
    }
    case "change": {
      const status = news.status ?? show.status;
      const other = status?.session_id !== show.status?.session_id;
      // What is told of a show that is over, or of the room as such, is not this show's.
      const ours = news.event.session_id === null || news.event.session_id === status?.session_id;
      return {
        ...show,
        status,
        timeline: merged(other ? [] : show.timeline, ours ? [news.event] : []),
        figures: other ? {} : show.figures,
        seen: Math.max(show.seen, news.event.id),
      };
    }
    case "metrics":
      return { ...show, figures: news.figures };
    case "news":
      return show.news === news.news ? show : { ...show, news: news.news };
    case "ahead":
      return show.ahead === news.ahead ? show : { ...show, ahead: news.ahead };
    case "refused":
      return { ...show, refused: news.error, news: "fresh" };
  }
}

function merged(old: EventOut[], fresh: EventOut[]): EventOut[] {
  if (!fresh.length) return old;
  const all = new Map(old.map((event) => [event.id, event]));
  for (const event of fresh) all.set(event.id, event);
  return [...all.values()].toSorted((a, b) => a.id - b.id).slice(-KEPT);
}

function idle(room: string): StatusOut {
  return {
    session_id: null,
    room_id: room,
    status: "idle",
    preset: null,
    chosen_preset: null,
    warning: null,
    started_at: null,
    ended_at: null,
    end: null,
    source: null,
    platforms: {},
    outputs: [],
    ingress: [],
    timeline: [],
  };
}

/** Of one room: a component that comes to show another one needs a `key`. `take`: a status that an action was answered with. */
export function useShow(room: string): Show & { take: (status: StatusOut) => void } {
  const { language } = useTexts();
  const [show, tell] = useReducer(next, EMPTY);
  const onAir = useEffectEvent(() => isOnAir(show.status));
  useEffect(() => {
    const over = new AbortController();
    void follow(room, language, over.signal, tell, () => onAir());
    return () => over.abort();
  }, [room, language]);
  const take = useCallback((status: StatusOut) => tell({ kind: "answer", status }), []);
  return { ...show, take };
}

/** Listens until `over`, coming back after each end of the stream behind the last event that it had. */
async function follow(
  room: string,
  language: Language,
  over: AbortSignal,
  tell: (news: News) => void,
  onAir: () => boolean,
) {
  let last = "";
  while (!over.aborted) {
    const broken = new AbortController();
    const end = () => broken.abort();
    over.addEventListener("abort", end);
    let heard = Date.now();
    let asking = false;
    const watch = setInterval(() => {
      if (asking || Date.now() - heard < (onAir() ? SILENCE : SILENCE_OFF_AIR)) return;
      asking = true;
      void getStatus(room, AbortSignal.any([over, AbortSignal.timeout(PATIENCE)]))
        .then((status) => {
          if (over.aborted) return;
          heard = Date.now();
          tell({ kind: "answer", status });
          tell({ kind: "news", news: "fresh" });
        })
        .catch(() => {
          if (over.aborted) return;
          tell({ kind: "news", news: "old" });
          // Whatever the connection is, it is not a working one.
          broken.abort();
        })
        .finally(() => (asking = false));
    }, 500);
    let pause = AGAIN;
    let refused = false;
    try {
      const headers: Record<string, string> = { accept: "text/event-stream", "accept-language": language };
      if (last) headers["last-event-id"] = last;
      const answer = await fetch(eventsOf(room), { headers, signal: broken.signal, cache: "no-store" });
      if (!answer.ok) throw await problemOf(answer);
      heard = Date.now();
      const ahead = Date.parse(answer.headers.get("date") ?? "") + 500 - heard;
      tell({ kind: "ahead", ahead: Math.abs(ahead) > SAME_CLOCK ? ahead : 0 });
      tell({ kind: "news", news: "fresh" });
      for await (const message of sentBy(answer)) {
        heard = Date.now();
        if (!message) continue;
        if (message.id) last = message.id;
        said(room, message.event, message.data, tell);
      }
    } catch (error) {
      if (error instanceof ApiError && !error.isPassing) {
        // Another user's room, or signed out: no haste.
        tell({ kind: "refused", error });
        refused = true;
        pause = 10_000;
      } else if (error instanceof ApiError && error.status === 429) {
        pause = Math.max(AGAIN, (error.retryAfter ?? 0) * 1000);
      }
    } finally {
      clearInterval(watch);
      over.removeEventListener("abort", end);
    }
    if (over.aborted) return;
    if (!refused) tell({ kind: "news", news: "old" });
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function said(room: string, event: string, data: string, tell: (news: News) => void): void {
  if (event === "status") {
    tell({ kind: "status", status: (JSON.parse(data) as StatusOut | null) ?? idle(room) });
  } else if (event === "change") {
    tell({ kind: "change", ...(JSON.parse(data) as { event: EventOut; status: StatusOut | null }) });
  } else if (event === "metrics") {
    tell({ kind: "metrics", figures: JSON.parse(data) as Figures });
  }
}
