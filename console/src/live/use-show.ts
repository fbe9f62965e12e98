/**
 * A room's show as it happens. The service tells by server-sent events; after a while without any sign of life the page
 * says that what it shows may be old.
 */
import { useEffect, useReducer } from "react";

import { getStatus, type EventOut, type OutputOut, type StatusOut } from "../api/live";

export interface Show {
  status: StatusOut | null;
  timeline: EventOut[];
  figures: Record<string, NonNullable<OutputOut["metrics"]>>;
  connected: boolean;
  failed: string | null;
}

type News =
  | { kind: "status"; status: StatusOut }
  | { kind: "change"; event: EventOut; status: StatusOut | null }
  | { kind: "metrics"; figures: Show["figures"] }
  | { kind: "connected"; connected: boolean }
  | { kind: "failed"; code: string }
  | { kind: "room" };

const EMPTY: Show = { status: null, timeline: [], figures: {}, connected: false, failed: null };
const KEPT = 300;
const AGAIN = 1500;

function next(show: Show, news: News): Show {
  switch (news.kind) {
    case "room":
      return EMPTY;
    case "status":
      return { ...show, status: news.status, timeline: merged([], news.status.timeline), failed: null };
    case "change": {
      const status = news.status ?? show.status;
      const other = status?.session_id !== show.status?.session_id;
      return { ...show, status, timeline: merged(other ? [] : show.timeline, [news.event]) };
    }
    case "metrics":
      return { ...show, figures: news.figures };
    case "connected":
      return { ...show, connected: news.connected };
    case "failed":
      return { ...show, failed: news.code };
  }
}

function merged(old: EventOut[], fresh: EventOut[]): EventOut[] {
  const all = new Map(old.map((event) => [event.id, event]));
  for (const event of fresh) all.set(event.id, event);
  return [...all.values()].sort((a, b) => a.id - b.id).slice(-KEPT);
}

/** `null` while no room is chosen. */
export function useShow(room: string | null): Show {
  const [show, tell] = useReducer(next, EMPTY);
  useEffect(() => {
    tell({ kind: "room" });
    if (!room) return;
    let over = false;
    let source: EventSource | null = null;
    let timer: ReturnType<typeof setTimeout>;
    const whole = () =>
      getStatus(room).then(
        (status) => {
          if (!over) tell({ kind: "status", status });
        },
        (error: { code?: string; status?: number }) => {
          if (!over && error.status) tell({ kind: "failed", code: error.code ?? "unexpected_answer" });
        },
      );
    const open = () => {
      if (over) return;
      source = new EventSource(`/api/live/events?room_id=${encodeURIComponent(room)}`);
      source.onopen = () => {
        tell({ kind: "connected", connected: true });
        // What was missed comes by its numbers; the whole state is asked for all the same.
        void whole();
      };
      source.onerror = () => {
        tell({ kind: "connected", connected: false });
        if (source?.readyState === EventSource.CLOSED) {
          source.close();
          timer = setTimeout(open, AGAIN);
          void whole();
        }
      };
      source.addEventListener("status", (event) => {
        const status = JSON.parse(event.data as string) as StatusOut | null;
        if (status) tell({ kind: "status", status });
      });
      source.addEventListener("change", (event) => {
        tell({ kind: "change", ...(JSON.parse(event.data as string) as { event: EventOut; status: StatusOut | null }) });
      });
      source.addEventListener("metrics", (event) => {
        tell({ kind: "metrics", figures: JSON.parse(event.data as string) as Show["figures"] });
      });
    };
    void whole();
    open();
    return () => {
      over = true;
      clearTimeout(timer);
      source?.close();
    };
  }, [room]);
  return show;
}
