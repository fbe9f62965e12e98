/** One show, whoever's it is: its outputs, what can be done about them, and all that happened. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import { retryOutput, stopOutput } from "../../api/live";
import {
  endShowById,
  getShow,
  wholeTimeline,
  type EventOut,
  type ShowOut,
  type ShowOutput,
} from "../../api/operations";
import { Confirm, Dialog } from "../../components/dialog";
import { clock, when } from "../../i18n";
import { platformName } from "../../live/platforms";
import { useAct } from "./act";
import { KEY, LOOK } from "./listed";
import { lengthOf } from "./shows";
import { useOperationsTexts } from "./texts";
import css from "./show-dialog.module.css";
import { problemText } from "../../i18n/problems";

export function ShowDialog({ id, onClose }: { id: string; onClose: () => void }) {
  const { t, o } = useOperationsTexts();
  const found = useQuery({
    queryKey: [KEY, "show", id],
    queryFn: ({ signal }) => getShow(id, signal),
    refetchInterval: LOOK,
    staleTime: LOOK,
  });
  const show = found.data;
  return (
    <Dialog wide title={show ? o.showOf(show.room_id) : o.tabs.shows} onClose={onClose}>
      {found.isPending ? <p className="dim">{t.loading}</p> : null}
      {found.isError ? (
        <p className={show ? "notice warn" : "notice bad"} role="alert">
          {show ? o.old : problemText(found.error, t)}
        </p>
      ) : null}
      {show === null ? <p className="notice">{o.noShow}</p> : null}
      {show ? <Show show={show} /> : null}
    </Dialog>
  );
}

function Show({ show }: { show: ShowOut }) {
  const { t, o, language } = useOperationsTexts();
  const { act, busy } = useAct();
  const [asked, setAsked] = useState<{ title: string; action: string; work: () => Promise<unknown> } | null>(null);
  const onAir = show.ended_at === null;
  const facts: [string, string | null][] = [
    [o.owner, show.owner],
    [o.startedBy, show.started_by],
    [o.started, when(show.started_at, language)],
    [o.ended, show.ended_at && when(show.ended_at, language)],
    [o.length, clock(lengthOf(show))],
    [o.source, onAir ? o.sources[show.source] : null],
    [o.preset, show.preset],
    [o.engine, show.egress],
    [o.project, show.project],
    [o.controller, onAir ? (show.controller ?? o.nobody) : null],
  ];
  return (
    <div className={css.show} data-session={show.session_id} data-status={show.status}>
      <div className="row">
        <span className={`state ${show.status}`} role="status">
          {t.live[show.status]}
        </span>
        <a href={`/watch/${encodeURIComponent(show.room_id)}`} target="_blank" rel="noreferrer">
          {o.watch}
        </a>
        <span className="grow" />
        {onAir ? (
          <button
            type="button"
            className="danger"
            disabled={busy || show.status === "stopping"}
            onClick={() =>
              setAsked({
                title: o.endAsk(show.room_id, show.owner),
                action: o.end,
                work: () => endShowById(show.session_id),
              })
            }
          >
            {show.status === "stopping" ? t.live.stopping : o.end}
          </button>
        ) : null}
      </div>
      {show.end ? <p className="notice">{show.end.message}</p> : null}
      <dl className={css.facts}>
        {facts.map(([name, value]) =>
          value ? (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ) : null,
        )}
      </dl>
      <h3>{o.outputs}</h3>
      <ul className={css.outputs}>
        {show.outputs.map((output) => (
          <Output
            key={output.id}
            output={output}
            onAir={onAir}
            busy={busy}
            onRetry={() => void act(() => retryOutput(output.id))}
            onStop={(name) =>
              setAsked({ title: o.stopOutputAsk(name), action: o.stopOutput, work: () => stopOutput(output.id) })
            }
          />
        ))}
      </ul>
      <ShowTimeline id={show.session_id} onAir={onAir} />
      {asked ? (
        <Confirm
          title={asked.title}
          action={asked.action}
          onNo={() => setAsked(null)}
          onYes={() => {
            setAsked(null);
            void act(asked.work, o.acted);
          }}
        />
      ) : null}
    </div>
  );
}

function Output({
  output,
  onAir,
  busy,
  onRetry,
  onStop,
}: {
  output: ShowOutput;
  onAir: boolean;
  busy: boolean;
  onRetry: () => void;
  onStop: (name: string) => void;
}) {
  const { t, o } = useOperationsTexts();
  const name = [platformName(output.platform), output.label].filter(Boolean).join(" ");
  const over = output.state === "ended" || output.state === "stopping";
  const { error } = output;
  return (
    <li data-platform={output.platform} data-state={output.state}>
      <div className="row">
        <b>{name}</b>
        <span className={`state ${output.state}`}>{t.live[output.state]}</span>
        {output.attempt > 1 ? <span className="dim">{o.attempt(output.attempt)}</span> : null}
        {output.metrics && output.state === "live" ? (
          <span className="dim">{Math.round(output.metrics.bitrate_kbps)} kbit/s</span>
        ) : null}
        <span className="grow" />
        {onAir && !over && output.state !== "live" ? (
          <button type="button" disabled={busy} aria-label={o.retryOutputOf(name)} onClick={onRetry}>
            {o.retryOutput}
          </button>
        ) : null}
        {onAir && !over ? (
          <button
            type="button"
            className="quiet"
            disabled={busy}
            aria-label={o.stopOutputOf(name)}
            onClick={() => onStop(name)}
          >
            {o.stopOutput}
          </button>
        ) : null}
      </div>
      {error ? (
        <p className="dim">
          <code>{error.code}</code> {error.message} {error.cause ? error.cause.message : ""}
        </p>
      ) : null}
      {output.error_detail ? (
        <p className="dim">
          {o.engineSays}: {output.error_detail}
        </p>
      ) : null}
    </li>
  );
}

function ShowTimeline({ id, onAir }: { id: string; onAir: boolean }) {
  const { t, o } = useOperationsTexts();
  const found = useQuery({
    queryKey: [KEY, "timeline", id],
    queryFn: ({ signal }) => wholeTimeline(id, signal),
    refetchInterval: onAir ? LOOK : false,
    staleTime: LOOK,
  });
  return (
    <>
      <h3>{o.timeline}</h3>
      {found.isPending ? <p className="dim">{t.loading}</p> : null}
      {found.isError && !found.data ? (
        <p className="notice bad" role="alert">
          {problemText(found.error, t)}
        </p>
      ) : null}
      {found.data?.length === 0 ? <p className="dim">{o.noTimeline}</p> : null}
      {found.data?.length ? (
        // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- scrolls by itself, so it has to be reached by keyboard
        <ol className={css.timeline} tabIndex={0} aria-label={o.timeline}>
          {found.data.toReversed().map((event) => (
            <Happened key={event.id} event={event} />
          ))}
        </ol>
      ) : null}
    </>
  );
}

function Happened({ event }: { event: EventOut }) {
  const { t, o, language } = useOperationsTexts();
  const words = t.live as Record<string, string | undefined>;
  return (
    <li data-event={event.event}>
      <time dateTime={event.at}>{new Date(event.at).toLocaleTimeString(language === "zh" ? "zh-CN" : "en-GB")}</time>
      <span>
        {event.platform ? <b>{platformName(event.platform)} </b> : null}
        <code>{event.event}</code>
        {event.to ? <span className={`state ${event.to}`}>{words[event.to] ?? event.to}</span> : null}
        {event.error ? <span> {event.error.message}</span> : null}
        {event.actor ? <span className="dim"> {o.by(event.actor)}</span> : null}
      </span>
    </li>
  );
}
